"""A TIFF, read with distrust: the one reader, for sources, inspection and reports."""
