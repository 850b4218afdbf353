"""OME-TIFF whose levels are SubIFDs, which readers that know no OME see as a pyramid too.

The OME-TIFF specification puts the levels of a plane into SubIFDs of its directory, where Bio-Formats, tifffile and
libvips find them; OpenSlide and others look for reduced images in the main chain only. So at the end
come copies of the first plane's reduced directories: they point to the same tables and segments, take some
hundred bytes, and no plane of the XML refers to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from slidewright.errors import OptionError
from slidewright.formats.laid import LaidTiff, Written, first_tags
from slidewright.formats.ome_xml import ome_xml
from slidewright.formats.tiff_directories import Directory, Tags

if TYPE_CHECKING:
    from slidewright.options import ConvertOptions


@dataclass(frozen=True, slots=True)
class OmeTiff(LaidTiff):
    """An OME-TIFF: a directory a plane, its levels below it, the XML in the first; then the copies."""

    strict: bool = False
    """Whether to leave the copies out."""

    name: ClassVar[str] = "ome-tiff"
    suffixes: ClassVar[tuple[str, ...]] = (".ome.tif", ".ome.tiff", ".ome.btf")
    holds_stacks: ClassVar[bool] = True
    holds_bits: ClassVar[bool] = True

    @classmethod
    def from_options(cls, options: ConvertOptions) -> OmeTiff:
        """See `Format`."""
        if options.flavour != "generic":
            raise OptionError(f"flavour {options.flavour!r} is of a plain TIFF; leave it out, or choose another suffix")
        return cls(bigtiff=options.bigtiff, strict=options.strict)

    def directories(self, written: Written, encoding: Tags) -> Sequence[Directory]:
        """See `LaidTiff`."""
        image = written.image
        whole, *reduced = image.plan.levels
        chain = [
            Directory(
                written.tags(whole, plane, encoding),
                [Directory(written.tags(level, plane, encoding)) for level in reduced],
            )
            for plane in range(image.plan.planes)
        ]
        # Bio-Formats numbers directories without reduced ones, tifffile with them: so the copies come last.
        extras = [(extra, number) for number, (extra, _, _) in enumerate(written.associated, len(chain))]
        chain += [Directory(extra.tags(offset, nbytes, 0, extra.name)) for extra, offset, nbytes in written.associated]
        if not self.strict:
            chain += [Directory(written.tags(level, 0, encoding)) for level in reduced]
        chain[0].tags |= first_tags(image, ome_xml(image, extras))
        return chain
