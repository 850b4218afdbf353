"""Workers as threads."""

from __future__ import annotations

from fake_sources import SlowSource
from oracle import pyramid
from written import assert_levels_equal_oracle

import slidewright
from slidewright.system import launcher as processes


def test_workers_as_threads_where_there_is_no_fork(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "make_launcher", lambda preload: processes.ThreadLauncher())
    source = SlowSource(300, 400)
    slidewright.convert(source, tmp_path / "out.tif", n_workers=3, tile_size=32, compression="deflate", block_tiles=2)
    assert len(pyramid(source.pixels(), 32)) == 5
    assert_levels_equal_oracle(tmp_path / "out.tif", source.pixels(), 32)
