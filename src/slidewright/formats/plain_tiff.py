"""TIFFs with images beside their levels in the main chain: Aperio's layout, which slide viewers know, or a generic one.

Aperio puts the thumbnail second, the label and the macro last, and tells them apart by NewSubfileType and the second
line of their description; OpenSlide, tifffile, large_image and QuPath look for that. Of a generic TIFF no reader looks
for such images; they come last, in strips, so that none takes them for a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from slidewright.errors import OptionError
from slidewright.formats.associated import THUMBNAIL_SIDE, has_thumbnail
from slidewright.formats.laid import LaidTiff, Written, first_tags
from slidewright.formats.tiff_directories import (
    IMAGE_DESCRIPTION,
    NEW_SUBFILE_TYPE,
    SOFTWARE,
    Directory,
    Tags,
    long,
    text,
)
from slidewright.formats.tiff_tags import (
    generic_description,
    generic_software,
    is_kept,
    no_channels,
    no_place,
    refuse_misleading,
)
from slidewright.tiff.vendor_metadata import foreign_name, own_fields

if TYPE_CHECKING:
    from slidewright.formats.base import ImageDescription
    from slidewright.geometry import Size
    from slidewright.options import ConvertOptions
    from slidewright.pyramid.plan import Level, Plan

_LABEL, _MACRO = 1, 9  # NewSubfileType, as Aperio has it
_APERIO_LEVEL = 0  # Aperio leaves the levels unmarked
_UNLIKE = 0.01
"""How much wider than high a pixel may be, as a part of it, where one number stands for both."""


@dataclass(frozen=True, slots=True)
class GenericTiff(LaidTiff):
    """The levels, then the images beside them."""

    @classmethod
    def from_options(cls, options: ConvertOptions) -> GenericTiff:
        """See `Format`."""
        return cls(bigtiff=options.bigtiff)

    def accept(self, image: ImageDescription) -> None:
        """Channels are planes of one page in a generic TIFF, which is laid elsewhere (see `Format`)."""
        if image.plan.planes > 1:
            raise OptionError("a generic TIFF of several channels has no images beside its levels; write a .ome.tif")
        refuse_misleading(image, generic_description(image))

    def no_place(self, image: ImageDescription) -> tuple[str, ...]:
        """See `Format`."""
        return no_place(image)

    def directories(self, written: Written, encoding: Tags) -> Sequence[Directory]:
        """See `LaidTiff`."""
        image = written.image
        chain = [Directory(written.tags(level, 0, encoding)) for level in image.plan.levels]
        chain += [Directory(extra.tags(place, size, 0, extra.name)) for extra, place, size in written.associated]
        chain[0].tags |= first_tags(image, generic_description(image)) | {SOFTWARE: text(generic_software(image))}
        return chain


@dataclass(frozen=True, slots=True)
class AperioTiff(LaidTiff):
    """The largest level, the thumbnail, the other levels, label and macro.

    Bio-Formats sorts what is no label or macro by size and drops the last, so the thumbnail must be the smallest; and
    so that it still shows something, the levels end above it, as Aperio's do.
    """

    thumbnail_is_smallest: ClassVar[bool] = True

    @classmethod
    def from_options(cls, options: ConvertOptions) -> AperioTiff:
        """See `Format`."""
        return cls(bigtiff=options.bigtiff)

    def count_levels(self, size: Size) -> int:
        """As long as a level is larger than a thumbnail (see `Format`)."""
        count = 1
        while max(size.halved(count)) > THUMBNAIL_SIDE:
            count += 1
        return count

    def thumbnail_level(self, plan: Plan) -> Level | None:
        """The smallest, unless that is large (see `LaidTiff`)."""
        last = plan.levels[-1]
        return last if max(last.size) <= 4 * THUMBNAIL_SIDE else None

    def accept(self, image: ImageDescription) -> None:
        """Readers take the second directory for the thumbnail, so there must be one (see `Format`)."""
        if self.thumbnail_level(image.plan) is None or not has_thumbnail(image.encoding):
            raise OptionError(
                "the Aperio flavour is for RGB or grey pixels of 8 bits, with levels down to 4096 pixels; leave "
                "flavour or levels out, or write a .ome.tif"
            )
        if image.mpp is not None and abs(image.mpp[0] - image.mpp[1]) > _UNLIKE * image.mpp[0]:
            raise OptionError(
                f"the Aperio flavour says one resolution, and this image has {image.mpp[0]:.4g} x {image.mpp[1]:.4g} "
                "um a pixel; give one with mpp, leave flavour out, or write a .ome.tif"
            )
        refuse_misleading(image, aperio_description(image), but="Aperio")

    def no_place(self, image: ImageDescription) -> tuple[str, ...]:
        """See `Format`."""
        return no_channels(image)

    def directories(self, written: Written, encoding: Tags) -> Sequence[Directory]:
        """See `LaidTiff`."""
        image = written.image
        first, *others = [Directory(written.tags(level, 0, encoding)) for level in image.plan.levels]
        head = aperio_head(image)
        size = image.plan.levels[0].size
        before, after = [], []
        for extra, place, nbytes in written.associated:
            height, width = extra.pixels.shape[:2]
            if extra.name == "thumbnail":
                shrunk = f"{head}\n{size.width}x{size.height} -> {width}x{height}"
                before.append(Directory(extra.tags(place, nbytes, 0, shrunk)))
            else:
                kind = _LABEL if extra.name == "label" else _MACRO
                after.append(Directory(extra.tags(place, nbytes, kind, f"{head}\n{extra.name} {width}x{height}")))
        for level, directory in zip(image.plan.levels[1:], others, strict=True):
            shrunk = f"{head}\n{size.width}x{size.height} -> {level.size.width}x{level.size.height}"
            directory.tags |= {IMAGE_DESCRIPTION: text(shrunk), NEW_SUBFILE_TYPE: long(_APERIO_LEVEL)}
        first.tags |= first_tags(image, aperio_description(image))
        return [first, *before, *others, *after]


def aperio_head(image: ImageDescription) -> str:
    """The first line of every description, by which readers know the format."""
    return f"Aperio Image Library ({image.software})"


def aperio_description(image: ImageDescription) -> str:
    """The description of the largest level: sizes, then fields."""
    size, tile, said = image.plan.levels[0].size, image.plan.tile, image.metadata
    fields = {}
    if said.objective_power is not None:
        fields["AppMag"] = f"{said.objective_power / said.reduction:g}"
    if image.mpp is not None:
        fields["MPP"] = f"{image.mpp[0]:.6g}"
    fields |= {name: value for name, value in own_fields(said).items() if name != "objective_power"}
    fields |= {foreign_name(name): value for name, value in said.identifying}
    lines = f"{aperio_head(image)}\n{size.width}x{size.height} ({tile}x{tile}) {image.encoding.compression}"
    given = image.description if image.description is not None and not is_kept(image.description) else ""
    extra = ";" + given.replace("|", "/") if given else ""
    return lines + extra + "".join(f"|{name} = {value.replace('|', '/')}" for name, value in fields.items())
