"""Benchmarks: whole processes against peers, codecs against one another, and the limit that codecs set.

`contest` runs programs in turns, `peers` knows the other programs, `codectables` the compressors, `outputs` checks that
the work was the same. `python -m slidewright.bench ROLE JSON` is the program of our own measured processes.
"""
