"""A file behind a URL (HTTP, S3, whatever fsspec knows), read at given places as `PixelFile` reads one on a disk.

What a block of tiles needs is told ahead and fetched side by side: a request takes tens of milliseconds, of which a
connection at a time would wait for every one. fsspec is imported here only.
"""

from __future__ import annotations

import io
import os
import re
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, BinaryIO, Final, TypeVar, cast

from slidewright.errors import SourceError
from slidewright.system.files import regular
from slidewright.system.pixel_file import PixelFile
from slidewright.system.thread_pool import ThreadPool

CONNECTIONS: Final = 8
_GAP = 64 << 10  # bytes between two ranges that are cheaper to fetch than another request
_PIECE = 4 << 20
SILENCE = 30.0
"""Seconds without a byte after which a request has failed."""
WHOLE = 900.0
"""Seconds after which a request has failed, however its bytes come: many workers may share a slow line."""
AHEAD_BYTES: Final = 32 << 20
"""What is fetched ahead at most: memory of each reader."""
_HEAD = 256 << 10  # what is fetched at once where little is known, as of directories
_TRIES = 4
_VERSIONS = ("ETag", "etag", "mtime", "LastModified", "Last-Modified")  # one of which changes with a file
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_Got = TypeVar("_Got")


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether a path has a scheme, such as https:// or s3://."""
    return isinstance(path, str) and _SCHEME.match(path) is not None


def is_store(url: str) -> bool:
    """Whether a URL is taken for a zarr store, which is many files: by its name, as nothing else tells it from afar."""
    return ".zarr" in url.lower()


def absolute(path: str) -> str:
    """A path from the root on, a URL as it is."""
    return path if is_url(path) else os.path.abspath(path)


def open_pixels(path: str) -> PixelFile:
    """A file on a disk or behind a URL, to be read at given places; SourceError where it can't be opened."""
    return RemoteFile(path) if is_url(path) else PixelFile(path)


def open_stream(path: str | os.PathLike[str]) -> BinaryIO:
    """The same as a stream that is read and sought; OSError for a file on a disk that can't be opened."""
    if not is_url(path):
        return open(path, "rb", opener=regular)
    return RemoteFile(os.fspath(path)).stream()


class RemoteFile(PixelFile):
    """A file behind a URL, for one reader in one process.

    Raises
    ------
    SourceError
        When fsspec is missing, the URL leads to nothing, or its server can't send parts of it; in reading, when a part
        did not come in several tries.
    """

    remote = True

    def __init__(self, url: str) -> None:
        self.path = url
        self.seen = None
        self._fd = None
        self._closed = False
        self._system, self._name = _filesystem(url)
        found = self._asked(lambda: self._system.info(self._name), "can't be opened")
        if found.get("size") is None or found.get("partial") is False:
            raise SourceError(f"{url}: its server does not send parts of a file; download it first")
        self.nbytes = int(found["size"])
        self._found: Mapping[str, Any] = found
        self._checked = {"raise_for_status": partial(_as_asked, size=self.nbytes)} if _is_http(url) else {}
        self._threads: ThreadPool | None = None
        self._starts: list[int] = []
        self._pieces: list[Future[bytes]] = []

    def version(self) -> str:
        """What its server says that changes with the file; looked at twice, as some give each answer another ETag."""
        again = self._asked(lambda: self._system.info(self._name), "can't be opened")
        return _version({name: said for name, said in self._found.items() if again.get(name) == said})

    def ahead(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Begin to fetch ranges of (byte, number of bytes), `AHEAD_BYTES` at most, and forget those of before."""
        for piece in self._pieces:
            piece.cancel()
        if self._threads is None:
            self._threads = ThreadPool(CONNECTIONS, "slidewright-fetch")
        wanted = _affordable(_joined(ranges))
        self._starts = [start for start, _ in wanted]
        self._pieces = [self._threads.submit(self._fetch, start, stop) for start, stop in wanted]

    def read(self, offset: int, count: int) -> bytes:
        """See `PixelFile`."""
        count = max(0, min(count, self.nbytes - offset))
        at = bisect_right(self._starts, offset) - 1
        if at >= 0:
            data = self._pieces[at].result()
            place = offset - self._starts[at]
            if place + count <= len(data):
                return data[place : place + count]
        return self._fetch(offset, offset + count) if count else b""

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """See `PixelFile`."""
        data = self.read(offset, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read_rows(self, offset: int, pitch: int, count: int, rows: int, buffer: memoryview, stride: int) -> int:
        """See `PixelFile`; one range for all of them, or as many as there are rows where they lie far apart."""
        self.ahead((offset + row * pitch, count) for row in range(rows))
        for row in range(rows):
            if self.read_into(offset + row * pitch, buffer[row * stride : row * stride + count]) < count:
                return row
        return rows

    def stream(self) -> BinaryIO:
        """It as a stream that is read and sought, which need not be closed."""
        return cast(BinaryIO, io.BufferedReader(_Stream(self), _HEAD))

    def close(self) -> None:
        """Forget what was fetched, and wait for what is on the way, which is not tried again."""
        self._closed = True
        self._starts, self._pieces = [], []
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
            self._threads = None

    def _fetch(self, start: int, stop: int) -> bytes:
        what = f"can't be read at byte {start}"
        data = self._asked(lambda: self._system.cat_file(self._name, start=start, end=stop, **self._checked), what)
        if len(data) != stop - start:
            raise SourceError(
                f"{self.path}: {len(data)} bytes came of {stop - start} at byte {start}; its server does not send "
                "parts of a file, or the file has changed: download it first"
            )
        return bytes(data)

    def _asked(self, ask: Callable[[], _Got], what: str) -> _Got:
        """The answer of a server that may need to be asked again."""
        for attempt in range(_TRIES):
            try:
                return ask()
            except SourceError:  # of `_as_asked`
                raise
            except Exception as error:  # each kind of server has its own
                cause = _cause(error)
                if isinstance(cause, (FileNotFoundError, PermissionError, ImportError)):
                    raise SourceError(f"{self.path} {what}: {_said(cause)}") from error
                if attempt == _TRIES - 1 or self._closed:
                    raise SourceError(f"{self.path} {what} in {_TRIES} tries: {_said(cause)}") from error
                time.sleep(0.2 * 4**attempt)
        raise AssertionError("unreachable")


class _Stream(io.RawIOBase):
    """A remote file as a raw stream, under a buffer."""

    def __init__(self, file: RemoteFile) -> None:
        self._file, self._at = file, 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move, and tell where to."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.nbytes}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer from here."""
        got = self._file.read_into(self._at, memoryview(buffer).cast("B"))
        self._at += got
        return got


def _filesystem(url: str) -> tuple[Any, str]:
    """What fsspec has for a URL: its file system, and the name of the file in it."""
    try:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]  # it has no types
    except ImportError:
        raise SourceError(f"{url} needs fsspec; install it with: pip install 'slidewright[remote]'") from None
    try:
        system, name = url_to_fs(url, **http_options(url))
    except ImportError as error:  # the scheme's own library
        raise SourceError(
            f"{url} can't be opened: {error}; pip install 'slidewright[remote]' has it for HTTP and S3"
        ) from error
    except ValueError as error:
        raise SourceError(f"{url} can't be opened: {error}") from error
    system.invalidate_cache()  # of what this process has listed before: it may be otherwise by now
    return system, name


def files_below(url: str) -> list[str]:
    """What tells the files below a URL from those that may be there later: of each its name, size and version.

    Raises
    ------
    SourceError
        Where nothing lists them, as with HTTP.
    """
    if _is_http(url):
        raise SourceError(
            f"{url}: HTTP does not list the files of a store, so whether it is the same as before can't be known; "
            "download it first, or convert it in one go"
        )
    system, name = _filesystem(url)
    try:
        found = system.find(name, detail=True)
    except Exception as error:  # each kind of server has its own
        raise SourceError(f"{url} can't be listed: {_said(_cause(error))}") from error
    return [f"{file.removeprefix(name)}\0{told.get('size')}\0{_version(told)}" for file, told in sorted(found.items())]


def _version(told: Mapping[str, Any]) -> str:
    return str(next((told[name] for name in _VERSIONS if name in told), ""))


def http_options(url: str) -> dict[str, Any]:
    """What fsspec is told for HTTP: how long a silent server is waited for, and one that gives a byte now and then, and
    what looks at each answer.
    """
    if not _is_http(url):
        return {}
    from aiohttp import ClientTimeout

    timeout = ClientTimeout(total=WHOLE, sock_connect=SILENCE, sock_read=SILENCE)
    return {"client_kwargs": {"timeout": timeout, "raise_for_status": _as_asked}}


def _is_http(url: str) -> bool:
    return url.lower().startswith("http")


async def _as_asked(answer: Any, size: int | None = None) -> None:
    """Refuse an answer of HTTP that says of itself that it is another part of the file (RFC 9110, section 14.4), or a
    part of a file of another size; aiohttp calls it with every answer.
    """
    asked = _RANGE.fullmatch(answer.request_info.headers.get("Range", ""))
    sent = _CONTENT_RANGE.match(answer.headers.get("Content-Range", ""))
    if asked is None or not (sent if answer.status == 206 else answer.status == 200):
        return
    first, total = (int(sent[1]), None if sent[2] == "*" else int(sent[2])) if sent else (0, None)
    start = int(asked[1]) if asked[1] else None if total is None else max(0, total - int(asked[2]))
    if start not in (None, first) or (size is not None and total not in (None, size)):
        raise SourceError(
            f"{answer.url}: asked for {asked[0]}, its server sent {sent[0] if sent else 'the whole file'}; the file "
            "has changed, or its server does not send parts of a file as asked: run again, or download it first"
        )


def _cause(error: BaseException) -> BaseException:
    """What is behind an error: fsspec says "not found" of an HTTP server whatever the trouble with it."""
    behind = error.__cause__
    if behind is None or not isinstance(error, FileNotFoundError) or getattr(behind, "status", 0) in (404, 410):
        return error
    return behind


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _joined(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Ranges as (first, end), those that are near each other as one."""
    start = stop = -1
    for first, count in sorted(ranges):
        if start >= 0 and first - stop <= _GAP and first + count - start <= _PIECE:
            stop = max(stop, first + count)
            continue
        if start >= 0:
            yield start, stop
        start, stop = first, first + count
    if start >= 0:
        yield start, stop


def _affordable(wanted: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """As many of the first ranges as may be held."""
    taken, left = [], AHEAD_BYTES
    for start, stop in wanted:
        left -= stop - start
        if left < 0:
            break
        taken.append((start, stop))
    return taken
