"""Ways to get regions of pixels that several kinds of source share: grids of cells, rows in a file, unpacked strips."""
