"""Segments to a file: the second end of the pipe. A format is one module that implements `base.Format`."""
