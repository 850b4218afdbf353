"""Random images that say things of themselves, written by tifffile and zarr as the specifications have it, with what
each truly says kept beside.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from faults.metadata_ome import OmeTeller
from faults.metadata_said import IMAGEJ_TIMES, IMAGEJ_UNITS, MAKERS, Pixels

FORMS = ("plain", "plain", "ome", "ome", "tifffile", "imagej", "aperio", "zarr", "zarr", "array")


class Made(OmeTeller):
    """A random source."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        super().__init__(folder, chance)
        self.form = chance.choice(FORMS)
        self._choose_pixels()
        self.source: Any = getattr(self, f"_{self.form}")()

    def _choose_pixels(self) -> None:
        chance, said = self.chance, self.said
        kinds = ["rgb", "rgb", "grey", "multichannel", "labels"]
        if self.form == "aperio":
            kinds = ["rgb"]
        elif self.form == "imagej":
            kinds = ["grey", "multichannel", "rgb"]
        elif self.form in ("ome", "tifffile"):
            kinds.remove("labels")
        elif self.form == "array":
            kinds.append("binary")
        said.kind = chance.choice(kinds)
        said.samples = {"rgb": 3, "multichannel": chance.randrange(2, 5)}.get(said.kind, 1)
        wider = {"grey": ("uint16", "float32"), "multichannel": ("uint16",), "labels": ("uint16",)}
        said.dtype = chance.choice(("uint8", *wider.get(said.kind, ())))
        if said.kind == "multichannel" and said.samples in (3, 4):
            said.dtype = "uint16"  # as bytes they would be colours to an array
        if self.form in ("ome", "tifffile", "imagej", "zarr") and said.kind != "labels" and self.maybe(0.3):
            said.stack = chance.choice(((1, 3), (2, 1), (2, 3)))
            if self.form == "imagej" and said.kind == "rgb":
                said.stack = (1, 3)
            self.options |= {axis: "all" for axis, length in zip("tz", said.stack, strict=True) if length > 1}

    def _maker_tags(self) -> list[tuple[Any, ...]]:
        """TIFF 6.0 section 8: Make and Model are the scanner's, and Software then is."""
        said, tags = self.said, []
        if self.maybe(0.3):
            said.vendor, said.model = self.chance.choice(MAKERS), self.chance.choice(("X1", "GT 450"))
            said.software = "AcmeScan 4.2" if self.maybe() else None
            tags += [(271, 2, 0, said.vendor.encode(), True), (272, 2, 0, said.model, True)]
        return tags

    def _place_tags(self) -> list[tuple[Any, ...]]:
        if not self.maybe(0.15):
            return []
        self.said.told["XPosition"] = "where it lies .XPosition"
        return [(286, 5, 1, (3, 2), True), (287, 5, 1, (5, 4), True)]

    def _plain(self) -> Path:
        said, chance = self.said, self.chance
        path, given = self.folder / "source.tif", self._photometric()
        tags = [*self._maker_tags(), *self._who_tags(0.15), *self._place_tags()]
        unit, scale = chance.choice((("CENTIMETER", 1e4), ("INCH", 25_400.0), ("NONE", None)))
        mpp = (self.number(0.1, 2), self.number(0.1, 2))
        mpp = (mpp[0], mpp[0]) if self.maybe() else mpp
        if self.maybe(0.1):
            mpp = (353.0, 353.0)
        if self.maybe(0.7):
            given |= {"resolution": tuple((scale or 1e4) / value for value in mpp), "resolutionunit": unit}
            if scale is None or mpp[0] > 100:
                said.told["resolution"] = "its resolution"
            else:
                said.mpp = mpp
        if said.kind == "labels":
            if said.dtype == "uint8" or self.maybe():
                table = np.zeros((3, 1 << 8 * np.dtype(said.dtype).itemsize), np.uint16)
                for index, color in self._palette().items():
                    table[:, index] = np.array(color) * 257
                given |= {"photometric": "palette", "colormap": table}
            else:
                self.options["kind"] = "labels"
        if self.maybe(0.15) and said.kind == "grey":
            tags.append((42113, 2, 0, "17", True))
            said.told["nodata"] = "17 stands for no data"
        orientation = chance.choice((1, 1, 1, *range(2, 9)))
        if orientation > 1:
            tags.append((274, 3, 1, orientation, True))
        sizes = self._sizes()
        metadata: Any = chance.choice((None, {}, {"origin": 1})) if len(sizes) == 1 else None
        description = self.secret("ImageDescription") if self.maybe(0.3) else None
        profile = self._profile()
        image = self.pixels()[0, 0]
        if said.kind == "rgb" and self.maybe(0.3):
            given |= {"compression": "jpeg", "compressionargs": {"level": 90}}
        with tifffile.TiffWriter(path, bigtiff=self.maybe(0.3), byteorder=chance.choice("<>")) as tiff:
            for number, (height, width) in enumerate(sizes):
                part = image[:, :: 1 << number, :: 1 << number][:, :height, :width]
                part = part[0] if part.shape[0] == 1 else np.moveaxis(part, 0, 2)
                part = part[:, :, 0] if part.shape[2] == 1 else part.reshape(height, width, -1)
                first = {"description": description, "extratags": tags, "iccprofile": profile} if not number else {}
                if number and "resolution" in given:
                    given["resolution"] = tuple(value / 2 for value in given["resolution"])
                if number and orientation > 1:
                    first["extratags"] = [(274, 3, 1, orientation, True)]
                if said.kind == "multichannel":
                    first |= {"planarconfig": "contig"}
                tiff.write(
                    np.ascontiguousarray(part), tile=(64, 64), subfiletype=int(number > 0),
                    metadata=metadata if not number else None, software=said.software or False, **given, **first,
                )  # fmt: skip
        if orientation > 4:
            said.shape = (said.shape[1], said.shape[0])
            said.mpp = said.mpp and (said.mpp[1], said.mpp[0])
        return path

    def _aperio(self) -> Path:
        said, path = self.said, self.folder / "source.svs"
        said.vendor = "Aperio"
        said.software = f"Aperio Image Library v{self.chance.randrange(9, 13)}.0.{self.chance.randrange(20)}"
        fields: dict[str, Any] = {}
        if self.maybe(0.8):
            said.objective_power = self.chance.choice((5, 10, 20, 40, 63, 1.25))
            fields["AppMag"] = said.objective_power
        if self.maybe(0.8):
            said.mpp = (round(self.chance.uniform(0.1, 2), self.chance.choice((2, 4))),) * 2
            fields["MPP"] = said.mpp[0]
        for name in ("User", "Date", "Time", "ScanScope ID", "Filename", "Barcode", "Title", "New Field"):
            if self.maybe(0.3):
                fields[name] = self.secret(name)
        fields |= {"Left": 12.5, "Top": 3.25, "Filtered": 5} if self.maybe() else {}
        sizes, profile, image = self._sizes(), self._profile(), self.pixels()[0, 0, 0]
        head = f"{said.software}\r\n{said.shape[1]}x{said.shape[0]} [0,0 9x9] (64x64) JPEG/RGB Q=70"
        text = head + "".join(f"|{name} = {value}" for name, value in fields.items())
        rgb: dict[str, Any] = {"photometric": "rgb", "metadata": None, "software": False}
        with tifffile.TiffWriter(path) as tiff:
            more = {"description": text, "iccprofile": profile, "extratags": self._who_tags(0.1)}
            tiff.write(image, tile=(64, 64), **rgb, **more)
            small = f"{head} -> 32x32"
            tiff.write(np.ascontiguousarray(image[:32, :32]), rowsperstrip=32, description=small, **rgb)
            for height, width in sizes[1:]:
                part = np.ascontiguousarray(image[::2, ::2][:height, :width])
                tiff.write(part, tile=(64, 64), description=f"{head} -> {width}x{height}", **rgb)
            for name, kind in (("label", 1), ("macro", 9)):
                if self.maybe(0.7):
                    said.beside[name] = np.random.default_rng(kind).integers(0, 255, (30, 40, 3), np.uint8)
                    words = f"{said.software}\r\n{name} 40x30"
                    tiff.write(said.beside[name], rowsperstrip=30, subfiletype=kind, description=words, **rgb)
        return path

    def _imagej(self) -> Path:
        said, path = self.said, self.folder / "source.tif"
        image, (times, depths) = self.pixels(), said.stack
        metadata: dict[str, Any] = {"axes": "TZCYXS" if said.kind == "rgb" else "TZCYX"}
        given: dict[str, Any] = {}
        unit, scale = self.chance.choice(list(IMAGEJ_UNITS.items()))
        if self.maybe(0.7):
            wanted = (self.number(0.1, 2), self.number(0.1, 2))
            metadata["unit"] = unit
            if self.maybe(0.2):
                metadata["unit"], scale = "furlong", 0
                said.told["resolution"] = "its resolution"
            else:
                said.mpp = wanted
            given["resolution"] = tuple((scale or 1) / value for value in wanted)
            if depths > 1 and self.maybe(0.7):
                zunit, zscale = unit, scale
                if self.maybe(0.3):
                    zunit, zscale = self.chance.choice(list(IMAGEJ_UNITS.items()))
                    metadata["zunit"] = zunit
                metadata["spacing"] = self.number(0.1, 5)
                said.z_spacing = metadata["spacing"] * zscale if zscale else None
                if not zscale:
                    said.told["spacing"] = "distance of its planes"
        if times > 1 and self.maybe(0.7):
            tunit, seconds = self.chance.choice(list(IMAGEJ_TIMES.items()))
            metadata |= {"finterval": self.number(0.1, 5), "tunit": tunit}
            if self.maybe(0.2):
                metadata["tunit"] = "lunch"
                said.told["finterval"] = "distance of its times"
            else:
                said.time_increment = metadata["finterval"] * seconds
        if said.kind != "rgb" and self.maybe():
            self._names()
            if said.names and said.stack == (1, 1) and said.kind == "multichannel":
                metadata["Labels"] = said.names
            else:
                said.names = None
                if said.stack == (1, 1) and said.kind == "grey" and self.maybe():
                    metadata["Labels"] = [self.secret("Labels")]  # the title of the image, perhaps
            if said.colors:
                ramp = np.arange(256)
                metadata["LUTs"] = [
                    np.stack([ramp * part // 255 for part in color]).astype(np.uint8) for color in said.colors
                ]
            else:
                said.colors = None
        if self.maybe(0.3):
            metadata["Info"] = self.secret("Info")
        image = image[..., 0] if said.kind != "rgb" else image
        tags = self._who_tags(0.15)
        tifffile.imwrite(path, image, imagej=True, metadata=metadata, software=False, extratags=tags, **given)
        return path

    def _array(self) -> Pixels:
        said = self.said
        if said.kind in ("labels", "multichannel") or (said.kind == "binary" and self.maybe()):
            self.options["kind"] = said.kind
        if said.kind == "labels" and self.maybe():
            self.options["colormap"] = self._palette()
        image = self.pixels()[0, 0]
        if said.kind == "binary":
            return image[0, :, :, 0] if "kind" in self.options else image[0, :, :, 0] > 0
        return image[0] if said.kind == "rgb" else np.ascontiguousarray(np.moveaxis(image[..., 0], 0, 2))
