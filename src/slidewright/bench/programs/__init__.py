"""The programs of the peers, one file each: run by the peer's own Python, so they import nothing of slidewright.

Each takes one JSON argument (source, dest, workers, tile_size, compression, quality, effort, number of levels) and
writes `dest`. They use each peer as its documentation shows, with the same codec settings where it has them.
"""
