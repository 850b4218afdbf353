"""What the fork server removes when the coordinator is gone; all else of it is tried by the runs of others."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from slidewright.system import files, forkserver
from slidewright.system.forkserver import ForkServer

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork server without fork")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> ForkServer:
    for name in ("signal", "set_wakeup_fd"):  # those of this process stay
        monkeypatch.setattr(forkserver.signal, name, lambda *_, **__: None)
    ours, theirs = socket.socketpair()
    theirs.close()
    return ForkServer(ours, os.getppid())


@pytest.mark.parametrize("guarded", ["scratch", ".o.tif.token.partial"])
@pytest.mark.parametrize("stuck", [False, True])
def test_lock_of_what_can_not_be_removed_stays(
    server: ForkServer, tmp_path: Path, guarded: str, stuck: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run finds by it what is left."""
    lock = f"{guarded.removesuffix('.partial')}.lock"
    for name in (lock, guarded):
        (tmp_path / name).touch()
    remove = files.remove
    for module in (forkserver, files):
        monkeypatch.setattr(module, "remove", lambda path: (stuck and path.endswith(guarded)) or remove(path))
    server._owned = [str(tmp_path / lock), str(tmp_path / guarded)]

    server._finish()

    assert sorted(os.listdir(tmp_path)) == (sorted([lock, guarded]) if stuck else [])
