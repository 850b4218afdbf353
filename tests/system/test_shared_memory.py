"""Memory that processes share."""

from __future__ import annotations

import errno
import os

import pytest

from slidewright.errors import OutputError
from slidewright.system.shared_memory import SharedBuffer, dumps, loads


def test_shared_buffer_is_anonymous_reserved_and_travels_by_descriptor(tmp_path):
    for on_disk in (False, True):
        buffer = SharedBuffer.allocate(10_000, tmp_path, on_disk=on_disk)
        assert list(tmp_path.iterdir()) == []
        assert os.fstat(buffer.fd).st_blocks * 512 >= 10_000
        buffer.view()[:4] = b"tile"
        data, buffers = dumps({"ring": buffer, "again": buffer})
        assert buffers == [buffer]
        other = loads(data, [os.dup(buffer.fd)])
        assert bytes(other["ring"].view()[:4]) == b"tile"
        assert other["ring"] is other["again"]
        assert (other["ring"].in_file, buffer.in_file) == (on_disk, on_disk)
        other["ring"].close()
        buffer.close()


@pytest.mark.parametrize("call", ["os.memfd_create", "mmap.mmap"])
def test_memory_that_can_not_be_had_is_an_error_of_ours(tmp_path, call, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(call, refuse)
    with pytest.raises(OutputError, match=r"can't get 3 MB of working memory \(Too many open files\)"):
        SharedBuffer.allocate(3_000_000, tmp_path)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="it has none")
@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS])
def test_container_that_forbids_shared_memory_gets_a_file(tmp_path, number, monkeypatch):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "memfd_create", refuse)
    buffer = SharedBuffer.allocate(3_000_000, tmp_path)
    assert buffer.in_file
    assert os.fstat(buffer.fd).st_blocks * 512 >= 3_000_000
    assert list(tmp_path.iterdir()) == []
    buffer.close()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("call", ["os.posix_fallocate", "mmap.mmap"])
@pytest.mark.parametrize("failure", [OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), KeyboardInterrupt()])
@pytest.mark.parametrize("on_disk", [False, True])
def test_memory_that_was_reserved_in_vain_is_given_back(tmp_path, call, failure, on_disk, monkeypatch):
    opened = []
    real = getattr(os, "dup" if on_disk else "memfd_create")

    def noted(*arguments):
        opened.append(real(*arguments))
        return opened[-1]

    def fail(*_):
        raise failure

    monkeypatch.setattr(os, real.__name__, noted)
    monkeypatch.setattr(call, fail)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        SharedBuffer.allocate(3_000_000, tmp_path, on_disk=on_disk)
    assert opened
    for fd in opened:
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            os.fstat(fd)
