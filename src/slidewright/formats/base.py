"""What a format is: segments to a file or a folder, the second end of the pipe.

The writer pulls: a format asks for the segment of one key after the other, in the order that it states, and nobody
else knows what becomes of them. So the engine is the same for every format, and a format is one module.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from slidewright.codecs import resolve
from slidewright.metadata import Metadata
from slidewright.report import LevelReport

if TYPE_CHECKING:
    from slidewright.codecs import Encoding
    from slidewright.formats.associated import Associated
    from slidewright.geometry import Size
    from slidewright.options import ConvertOptions
    from slidewright.pixels import PixelFormat
    from slidewright.pyramid.block_files import BlockFiles, SharedFolder
    from slidewright.pyramid.kept import Kept
    from slidewright.pyramid.plan import Key, Level, Plan
    from slidewright.sources.base import Stored

TakeSegment = Callable[["Key"], bytes]
"""Gives a tile's segment, waiting for it if need be."""

PackSegment = Callable[[bytes], bytes]
"""From what a codec gives to what the format stores of it."""


@dataclass(frozen=True, slots=True)
class ImageDescription:
    """What a file says of its image, and how its pixels are cut and encoded."""

    plan: Plan
    encoding: Encoding
    mpp: tuple[float, float] | None
    """Micrometres a pixel of level 0 along (x, y)."""
    description: str | None
    icc_profile: bytes | None
    software: str
    kept_levels: tuple[Kept, ...] = ()
    """What level 0, and levels above it, keep of the source's own tiles; the encoding is that of the other levels."""
    metadata: Metadata = field(default_factory=Metadata)
    """What may be kept of optics, instrument and channels."""
    associated: tuple[Associated, ...] = ()
    """Images to write beside the levels."""
    thumbnail: bool = False
    """Whether a thumbnail made of the levels is written too, where the format can have one."""


    @property
    def kept(self) -> Kept | None:
        """What level 0 keeps."""
        return self.kept_at(0)

    def kept_at(self, level: int) -> Kept | None:
        """What a level keeps."""
        return self.kept_levels[level] if level < len(self.kept_levels) else None


class Format(ABC):
    """A kind of file; a small picklable value, with what was chosen for this kind alone."""

    __slots__ = ()

    name: ClassVar[str]
    """By which the option `format` knows it."""
    suffixes: ClassVar[tuple[str, ...]]
    """Ends of file names, in lower case, that ask for it."""
    is_folder: ClassVar[bool] = False
    """Whether what it writes is a folder."""
    holds_stacks: ClassVar[bool] = False
    """Whether it holds images of several planes along z, or times."""
    holds_bits: ClassVar[bool] = False
    """Whether it has a place for `Metadata.significant_bits`."""
    shown_everywhere: ClassVar[tuple[str, ...]] = ("jpeg", "deflate", "lzw", "packbits")
    """Compressions of which a source's own tiles are kept without being asked for."""
    holds_gaps: ClassVar[bool] = True
    """Whether tiles that a source leaves out can be left out, and read as the source reads them."""

    @classmethod
    @abstractmethod
    def from_options(cls, options: ConvertOptions) -> Format:
        """The format as the options ask for it; raises OptionError for those that make no sense for it."""

    def encoding(self, options: ConvertOptions, pixels: PixelFormat) -> Encoding:
        """How tiles are encoded; raises OptionError for a codec that the format can't hold."""
        return resolve(options, pixels)

    def keeps(self, stored: Stored) -> str | None:
        """Why level 0 can't hold a source's own tiles as they are, as a clause of a message; None if it can."""
        return f"the format {self.name!r} holds only what it has encoded"

    def warning(self, encoding: Encoding) -> str | None:
        """What whoever asked for an encoding should know of it; None for nothing."""
        return None

    def no_place(self, image: ImageDescription) -> tuple[str, ...]:
        """What is known of an image and a file of this format does not say, as clauses of a warning."""
        return ()

    def by_blocks(self, shared: SharedFolder | None = None) -> Format:
        """The same format, whose files that a block fills by itself are written by whoever encodes that block; those of
        the first pass belong to shards, where there is a folder for them, and `write` gives them a name in the output.
        """
        return self

    def block_files(self, path: str | None, image: ImageDescription) -> BlockFiles | None:
        """Those files, of an output with this name, or of shards alone; None where the writer writes all."""
        return None

    def held_bytes(self, encoding: Encoding, level: Level, block_tiles: int) -> int:
        """How many encoded bytes of a plane whoever encodes a block of at most so many tiles a side holds at most for
        files that it fills; `level` is the lowest. 0 where the writer writes all.
        """
        return 0

    def packer(self, encoding: Encoding) -> PackSegment | None:
        """What workers do to each segment before it leaves them; None for nothing."""
        return None

    def count_levels(self, size: Size) -> int | None:
        """How many levels to make of an image of this size; None until both sides fit in one tile."""
        return None

    def accept(self, image: ImageDescription) -> None:  # noqa: B027 - most formats can hold anything
        """Raise OptionError for an image that the format can't hold; called before anything is done."""

    def accept_place(self, path: str) -> None:  # noqa: B027 - most formats may be anywhere
        """Raise DestinationError for a path whose surroundings would be spoilt; called before anything is done."""

    @abstractmethod
    def order(self, plan: Plan) -> Iterator[Key]:
        """Every key, in the order in which `write` asks for them; of files that blocks fill, for their first alone."""

    @abstractmethod
    def wave(self, plan: Plan, key: Key) -> int | None:
        """Which wave of early segments a key belongs to: those of one wave are asked for together, and wait in one
        temporary file, which goes when the last is taken. None for keys that wait until the end of the run.
        """

    @abstractmethod
    def write(self, path: str, image: ImageDescription, take: TakeSegment) -> list[int]:
        """Write everything under a name that does not exist yet; returns the encoded bytes of each level.

        Raises
        ------
        OutputError
            When it can't be written.
        """

    @abstractmethod
    def check(self, path: str, image: ImageDescription) -> None:
        """Look at what was written as a reader would; raises VerifyError when it is not what it should be."""

    @abstractmethod
    def verify(self, path: str, n_workers: int | None) -> None:
        """Decode every tile of what was written; raises VerifyError."""

    @abstractmethod
    def levels(self, path: str) -> tuple[LevelReport, ...]:
        """The levels of a file that was finished before."""

    def named(self, path: str) -> None:
        """The output has just got its name: what others say of it may be brought up to date; raises OutputError."""
        return None

    def count_files(self, image: ImageDescription) -> int:
        """Of how many files the output is, at most."""
        return 1

    def recognises(self, path: str) -> bool:
        """Whether what lies at a path is an image of this format, which may be replaced by another."""
        try:
            return bool(self.levels(path))
        except Exception:  # it can be anything
            return False

    def least_bytes(self, plan: Plan, encoding: Encoding) -> int:
        """Bytes that the tables of a file take, at least."""
        return 0
