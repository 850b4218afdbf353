"""What libjpeg does not refuse in a JPEG: zeros in the place of a part, as a copy leaves them that broke off or lost a
block of its disk, other codes than its image has, and scans without number.

imagecodecs does not tell what libjpeg warns of: it takes zeros for coefficients, and what comes after them for the rest
of the image. simplejpeg tells the first warning.
"""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np

from slidewright.geometry import Size
from slidewright.system.interrupts import let_through
from slidewright.tiff.jpeg_header import PROGRESSIVE, WITH_BLOCKS, read_jpeg_header, read_process, segments
from slidewright.tiff.stream_headers import is_far_larger, look

MAX_SCANS = 100
"""Of a JPEG that is decoded: a small one may have a thousand, each of which goes over all of the image."""
_HOLE = bytes(512)  # a sector; one that reaches beyond a tile takes its header or its end
_DAMAGE = re.compile("Corrupt JPEG data|Inconsistent progression sequence")
"""How libjpeg begins its warnings about codes and scans (jerror.h)."""
_SPARE = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_END = b"\xff\xd9"
_SCAN = b"\xff\xda"  # which is in no codes either
_SCAN_PAIR = int.from_bytes(_SCAN, "little")
_DHT, _SOS = 0xC4, 0xDA
_AC, _END_OF_BLOCK = 0x10, 0x00


def has_hole(stream: bytes, cell: Size, joined: bytes = b"") -> bool:
    """Whether a JPEG of a tile of `cell` pixels has zeros in its codes, and these do not add up to its image. Such
    zeros alone are no hole: codes may be zeros where a tile has one colour. `joined` is what makes the stream whole,
    behind its first marker. False for one far larger than its tile, for which no room is to be made.
    """
    if _HOLE not in stream:
        return False
    size = look("jpeg", stream).size
    if size is None or is_far_larger(size, cell):
        return False
    return not _adds_up(stream, joined)


@lru_cache(maxsize=8)  # of an empty slide's tiles, which are all alike
def _adds_up(stream: bytes, joined: bytes) -> bool:
    """Whether libjpeg finds codes for all of the image and no more; true of what it can't decode for another reason,
    and where the zeros are not among the codes.
    """
    whole = stream[:2] + joined + stream[2:]
    header = read_jpeg_header(whole)
    if header is None or header.process not in WITH_BLOCKS:
        return True
    begin, end, impossible = _codes(whole, len(header.sampling))
    if whole.find(_HOLE, begin, end) < 0:
        return True
    codes = whole[begin:end].rstrip(b"\xff")
    spare = len(codes) - len(codes.rstrip(b"\0"))  # zeros behind the last code of a whole image are no part of it
    if impossible and header.process < PROGRESSIVE:
        last = min(begin + len(codes) - spare + 2, end)  # the last codes may be zeros
        if whole.find(_HOLE, begin, last) >= 0:
            return False
        whole = whole[:last] + _END
    damage = damage_of(whole)
    too_many = _SPARE.search(damage) if header.process <= PROGRESSIVE else None  # an arithmetic code goes on in zeros
    return not damage or (too_many is not None and spare >= int(too_many[1]))


def damage_of(whole: bytes) -> str:
    """What libjpeg says first of the codes of a JPEG, empty where it finds no fault in them, or can't decode it for
    another reason.
    """
    from simplejpeg import decode_jpeg

    header = read_jpeg_header(whole)
    if header is None or header.process not in WITH_BLOCKS:
        return ""
    try:
        decode_jpeg(whole, "CMYK" if len(header.sampling) == 4 else "GRAY", min_factor=8, strict=True)
    except MemoryError:
        raise
    except Exception as error:
        let_through(error)
        return str(error) if _DAMAGE.match(str(error)) else ""
    return ""


def number_of_scans(stream: bytes) -> int:
    """How often all of a JPEG is gone over: once, or some ten times where it is progressive. A scan may have no codes.
    """
    data = np.frombuffer(stream, np.uint8)
    pairs = (data[first : first + (len(data) - first) // 2 * 2].view("<u2") for first in (0, 1))
    found = sum(int(np.count_nonzero(each == _SCAN_PAIR)) for each in pairs)  # in a third of the time of bytes.count
    if found <= MAX_SCANS:
        return found
    begin, _, _ = _codes(stream, 0)  # what comes before is metadata
    return 1 + stream.count(_SCAN, begin)


def without_tail(stream: bytes) -> bytes:
    """A JPEG up to its end, without what may stand behind it."""
    _, end, _ = _codes(stream, 0)
    return stream[: end + len(_END)]


def is_padding(whole: bytes, damage: str) -> bool:
    """Whether all that libjpeg says of a JPEG is of bytes between the last code and the end, all of one value, as
    cameras leave them; those that damage leaves are codes.
    """
    spare, process = _SPARE.search(damage), read_process(whole)
    if spare is None or process is None or process > PROGRESSIVE:  # an arithmetic code may take any zeros for its own
        return False
    _, end, _ = _codes(whole, 0)
    return len(set(whole[end - int(spare[1]) : end])) == 1


def _codes(whole: bytes, components: int) -> tuple[int, int, bool]:
    """Where the codes begin and end, and whether zeros among them stand for what no image has: block after block in
    which no coefficient is zero. So it is where one scan has all components and annex K's tables of the standard; those
    made for a tile of one colour have their shortest code, all of zeros, for the end of a block.
    """
    first: dict[int, int] = {}  # of each table the symbol of its shortest code, by B.2.4.2's class and number
    place, impossible = 2, False
    for marker, payload in segments(whole):
        place, at = whole.find(payload, place + 4) + len(payload), 0
        while marker == _DHT and at + 17 < len(payload):
            first[payload[at]] = payload[at + 17]
            at += 17 + sum(payload[at + 1 : at + 17])
        if marker == _SOS and len(payload) >= 2 * components + 4 and payload[0] == components:
            used = [_AC | payload[2 * n] & 15 for n in range(1, components + 1)]
            impossible = any(first.get(table, _END_OF_BLOCK) != _END_OF_BLOCK for table in used)
    end = whole.find(_END, place)  # which is in no codes
    return place, len(whole) if end < 0 else end, impossible
