"""Random metadata through random chains of formats: what an image says of itself is in the next file, or named in the
warning about what is not passed on; and what may identify is in it only when that was asked for.

Written by tifffile and zarr, read back by tifffile, ElementTree, zarr and OpenSlide. `Expected` knows what each format
holds, from its specification and the documentation.
"""

from __future__ import annotations

import base64
import copy
import json
import random
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import openslide
import pytest
import tifffile
import zarr
from faults.campaign import Campaign
from faults.metadata_said import WORDS, Said
from faults.metadata_sources import Made

import slidewright
from slidewright.errors import SlidewrightError

FORMATS = ("plain", "plain", "aperio", "ome", "ome", "zarr", "zarr", "zarr 0.4")
SUFFIXES = {"plain": ".tif", "aperio": ".svs", "ome": ".ome.tif", "zarr": ".ome.zarr", "zarr 0.4": ".ome.zarr"}
MASKS_AND_COLOURS = ("rgb", "labels", "binary")
OPTICS = {
    "objective_power": "objective power",
    "vendor": "scanner vendor",
    "model": "scanner model",
    "software": "scanner software",
    "z_spacing": "z spacing",
    "time_increment": "time increment",
}
"""What has no tag of its own in a TIFF, and the words for it in a warning."""
_NAMESPACE = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"


@pytest.mark.timeout(60)
def test_metadata_through_random_chains_of_formats(tmp_path: Path) -> None:
    Campaign("random metadata", short=20, long=20).run(tmp_path, Chain, Chain.run)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_metadata_through_many_random_chains_of_formats(tmp_path: Path) -> None:
    Campaign("random metadata", short=400, long=20_000).run(tmp_path, Chain, Chain.run)


class Chain:
    """A random source, and one to three conversions, each of what the one before has written."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self._folder, self._chance = folder, chance
        self._made = Made(folder, chance)
        self._said = self._made.said
        self._steps = [str(self._made)]

    def __str__(self) -> str:
        return "\n  -> ".join(self._steps)

    def run(self) -> Any:
        """What became of each conversion; AssertionError where a file does not say what it should."""
        source, needed = self._made.source, dict(self._made.options)
        for number in range(self._chance.choice((1, 2, 3))):
            form = self._chance.choice(FORMATS)
            expected = Expected(copy.deepcopy(self._said), form, {**needed, **self._options(form)})
            given = {name: value for name, value in expected.options.items() if name != "level" or not expected.by_page}
            self._steps.append(f"{form} with {expected.options}")
            path = self._folder / f"out{number}{SUFFIXES[form]}"
            if expected.refused():
                with pytest.raises(SlidewrightError):
                    slidewright.convert(source, path, n_workers=0, **given)
                yield "refused"
                return
            report = slidewright.convert(source, path, n_workers=0, **given)
            expected.compare(path, " ".join(report.warnings))
            self._said, source = expected.said, path
            needed = {axis: "all" for axis, length in zip("tz", self._said.stack, strict=True) if length > 1}
            yield f"{form} right"

    def _options(self, form: str) -> dict[str, Any]:
        chance, said = self._chance, self._said
        options: dict[str, Any] = {"tile_size": 64, "keep_tiles": chance.choice(("auto", "auto", "never"))}
        options |= {"flavour": "aperio"} if form == "aperio" else {}
        options |= {"ngff": "0.4"} if form == "zarr 0.4" else {}
        names = [f"{chance.choice(WORDS)}, {number}" for number in range(said.channels)]
        some: dict[str, tuple[float, Any]] = {
            "keep_metadata": (0.5, chance.choice(("all", "all", "all", "none", "allowed"))),
            "mpp": (0.12, chance.choice((0.25, 0.5031, (0.25, 0.5), (0.25, 0.2501), 250))),
            "objective_power": (0.12, chance.choice((20, 40, 2.5))),
            "z_spacing": (0.12, chance.choice((1.5, 0.333333333))),
            "time_increment": (0.12, 2.25),
            "description": (0.12, chance.choice(("mine", "two words\nand a line", "ein Bär | a pipe"))),
            "level": (0.6 if said.levels > 1 else 0, said.levels - 1),
            "associated": (0.5 if said.beside and not form.startswith("zarr") else 0, ["label", "macro"]),
            "strict": (0.3 if form == "ome" else 0, True),
            "bits": (0.3 if said.kind == "binary" and not form.startswith("zarr") else 0, 1),
            "bigtiff": (0.3 if form in ("plain", "ome") else 0, False),
            "channel_names": (0.1 if form == "ome" or said.samples > 1 or chance.random() < 0.2 else 0, names),
            "channel_colors": (0.1 if form == "ome" else 0.02, [(9, 99, 199)] * said.channels),
            "compression": (0.3, "zstd"),
            "z": (0.5 if said.stack[1] > 1 else 0, chance.choice((1, "0:2"))),
            "t": (0.5 if said.stack[0] > 1 else 0, chance.choice((0, "0:1"))),
        }
        options |= {name: value for name, (part, value) in some.items() if chance.random() < part}
        single = max(said.stack) == 1 and said.kind != "multichannel"
        if single and said.pages and "level" in options and chance.random() < 0.4:
            options["page"] = said.pages[options["level"]]
        height, width = (side >> options.get("level", 0) for side in said.shape)
        if chance.random() < 0.2 and min(height, width) > 12:
            x, y = chance.randrange(width // 2), chance.randrange(height // 2)
            options["region"] = (x, y, width - x - 5, height - y - 5)
        return options


class Expected:
    """What a conversion to a format must say, and what its warning must name."""

    def __init__(self, said: Said, form: str, options: dict[str, Any]) -> None:
        self.said, self.form, self.options = said, form, options
        self.named: dict[str, str] = dict(said.told)
        """What a warning must name, and by which words."""
        said.told = {}
        self.by_page = "page" in options
        """Whether the level is chosen as a page."""
        self._level()
        self._kept()
        self._given()
        self._held()

    def refused(self) -> bool:
        """Whether the documentation says that this is refused."""
        said, options = self.said, self.options
        if self.form in ("plain", "aperio"):
            if max(said.stack) > 1 or "channel_names" in options or "channel_colors" in options:
                return True
            if options.get("associated") and said.kind == "multichannel":
                return True
        if self.form == "aperio":
            if said.kind not in ("rgb", "grey") or said.dtype != "uint8":
                return True
            return said.mpp is not None and abs(said.mpp[0] - said.mpp[1]) > 0.01 * said.mpp[0]
        return False

    def _level(self) -> None:
        """A reduced level has larger pixels, and of a stack some are chosen; nothing else of it is another."""
        said, level = self.said, self.options.get("level", 0)
        chosen = {0: 1, 1: 1, "0:1": 1, "0:2": 2}
        said.stack = tuple(chosen.get(self.options.get(a), n) for a, n in zip("tz", said.stack, strict=True))
        said.shape = (said.shape[0] >> level, said.shape[1] >> level)
        said.mpp = said.mpp and (said.mpp[0] * 2**level, said.mpp[1] * 2**level)
        if "region" in self.options:
            said.shape = (self.options["region"][3], self.options["region"][2])

    def _kept(self) -> None:
        """What `keep_metadata` leaves, see docs/identifying.md."""
        said, keep = self.said, self.options.get("keep_metadata", "allowed")
        self.absent = {} if keep == "all" else said.secrets
        said.secrets = said.secrets if keep == "all" else {}
        if keep == "none":
            for name in OPTICS:
                setattr(said, name, None)
            said.names = said.colors = said.bits = None
            self._need_not_name("names")

    def _given(self) -> None:
        """What the caller says is what the file says."""
        said, options = self.said, self.options
        if "mpp" in options:
            mpp = options["mpp"]
            said.mpp = mpp if isinstance(mpp, tuple) else (mpp, mpp)
            self._need_not_name("resolution", "PhysicalSize", "scale")
        for name in ("objective_power", "z_spacing", "time_increment"):
            if name in options:
                setattr(said, name, options[name])
        if self.form == "aperio" and said.objective_power is not None and "objective_power" not in options:
            said.objective_power /= 2 ** options.get("level", 0)  # AppMag is that of the image
        if "z_spacing" in options:
            self._need_not_name("spacing")
        if "channel_names" in options:
            said.names = options["channel_names"]
            self._need_not_name("names")
        if "channel_colors" in options:
            said.colors = options["channel_colors"]
            self._need_not_name("names")

    def _need_not_name(self, *lost: str) -> None:
        """What was asked otherwise may be told, or not."""
        for what in lost:
            self.named.pop(what, None)

    def _held(self) -> None:
        """What the format has no place for is named."""
        said = self.said
        channels = said.names or said.colors
        if channels and self.form in ("plain", "aperio"):
            self.named["channels"] = "names and colours of its channels"
            said.names = said.colors = None
        if self.form in ("plain", "aperio"):  # whose fields are divided by "|", on a line
            for name in ("vendor", "model", "software"):
                value = getattr(said, name)
                setattr(said, name, value and " ".join(value.replace("|", "/").split()))
        if channels and self.form.startswith("zarr") and said.kind in MASKS_AND_COLOURS:
            self.named["channels"] = "names? and colou?rs? of its channel"
            said.names = said.colors = None
        if self.form == "plain" and "description" in self.options:
            for name, words in OPTICS.items():
                if getattr(said, name) is not None:
                    self.named[name] = words
                    setattr(said, name, None)
            if said.secrets:
                self.named["secrets"] = "what may identify"
                said.secrets = {}
        if said.bits is not None and self.form != "ome":
            self.named["bits"] = f"{said.bits} bits of each"
            said.bits = None
        if self.form.startswith("zarr") or not self.options.get("associated"):
            said.beside = {}

    def compare(self, path: Path, warnings: str) -> None:
        """Hold a file against all that."""
        said = self.said
        for what, words in self.named.items():
            assert re.search(words, warnings), f"{what} is not named in {warnings!r}"
        found, text = (read_zarr if path.is_dir() else read_tiff)(path, self.form)
        for what, secret in said.secrets.items():
            assert secret in text, f"{what} is lost: {secret}"
        for what, secret in self.absent.items():
            assert secret not in text, f"{what} is in it: {secret}"
        description = self.options.get("description")
        if description is not None:
            wanted = description.replace("|", "/") if self.form == "aperio" else description
            assert wanted in found["description"], f"description {found['description']!r}"
        if said.mpp is None:
            assert found["mpp"] is None
        else:
            assert found["mpp"] == [pytest.approx(said.mpp, rel=1e-5)] * found["levels"], "mpp"
        assert found["nearest"] or said.kind not in ("labels", "binary")
        for name in ("kind", "icc", *OPTICS):
            wanted = getattr(said, name)
            wanted = pytest.approx(wanted, rel=1e-6) if isinstance(wanted, float) else wanted
            assert found[name] == wanted, name
        if said.palette is not None:
            assert found["palette"] == said.palette
        assert found["bits"] == said.bits
        self._compare_channels(found)
        assert {*found["beside"]} == {*said.beside}
        for name, pixels in said.beside.items():
            np.testing.assert_array_equal(found["beside"][name], pixels)
        said.levels, said.pages = found["levels"], found.get("pages", [])

    def _compare_channels(self, found: dict[str, Any]) -> None:
        said = self.said
        if self.form in ("plain", "aperio") or (self.form.startswith("zarr") and said.kind in MASKS_AND_COLOURS):
            said.names = said.colors = None
            return
        shown_in = [(255, 255, 255)] if said.channels == 1 else [None] * said.channels
        for name, made_up in (("names", [f"Channel {n}" for n in range(said.channels)]), ("colors", shown_in)):
            wanted = getattr(said, name)
            if wanted is None and self.form.startswith("zarr"):  # which tells a viewer of every channel
                wanted = made_up if name == "names" or made_up[0] else found[name]
                if name == "colors" and said.names:
                    said.colors = found[name]
            assert found[name] == wanted, name


def read_tiff(path: Path, form: str) -> tuple[dict[str, Any], str]:
    """What a TIFF says by the specifications, and all its bytes as text."""
    found: dict[str, Any] = dict.fromkeys(("names", "colors", "palette", "bits", *OPTICS))
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome == (form == "ome")
        assert tiff.is_svs == (form == "aperio")
        pages = [tiff.pages[number].aspage() for number in range(len(tiff.pages))]
        first = pages[0]
        text = first.description
        if form == "ome":
            levels = [level.keyframe for level in tiff.series[0].levels]
        else:
            levels = [page for page in pages if page.is_tiled]
        places = [page.offset for page in pages]
        found["pages"] = [places.index(level.offset) for level in levels if level.offset in places]
        found["pages"] *= len(found["pages"]) == len(levels)
        found |= {"levels": len(levels), "icc": first.iccprofile, "description": text}
        found["mpp"] = _resolutions(levels)
        assert not [tag for page in pages for tag in (274, 42113, 286) if tag in page.tags]
        found["kind"] = _kind_of(first, text, tiff)
        if first.colormap is not None:
            found["palette"] = {n: tuple(int(v) >> 8 for v in first.colormap[:, n]) for n in range(11)}
        found["nearest"] = _nearest([page.asarray() for page in levels[:2]]) if first.samplesperpixel == 1 else False
        named = [(page.description.rstrip("\0"), page) for page in pages if not page.is_tiled]
        if form == "aperio":
            named = [(text.splitlines()[1].split()[0], page) for text, page in named]
        found["beside"] = {name: page.asarray() for name, page in named if name in ("label", "macro")}
        if form == "ome":
            found |= _ome(tiff.ome_metadata, [len(level.pages) for level in tiff.series[0].levels])
            names = [s.name for s in tiff.series[1:]]
            found["beside"] = {s.name: s.asarray() for s in tiff.series[1:] if s.name in ("label", "macro")}
            assert {*names} <= {"label", "macro", "thumbnail"}
            assert found.pop("mpp of the XML") == (found["mpp"][0] if found["mpp"] else None)
        else:
            found |= _fields(text, form)
    _ask_openslide(path, form, found)
    return found, path.read_bytes().decode("utf-8", "replace")


def _resolutions(levels: list[Any]) -> list[tuple[float, float]] | None:
    """Micrometres a pixel of the largest by every level's tags, which the number of its halvings is taken out of."""
    if levels[0].tags.valueof(296) in (None, 1):
        assert {page.tags.valueof(296) for page in levels} <= {None, 1}
        return None
    found = []
    for number, page in enumerate(levels):
        assert page.tags.valueof(296) == 3
        ratios = [page.tags.valueof(code) for code in (282, 283)]
        found.append(tuple(1e4 * below / above / 2**number for above, below in ratios))
    for each in found:
        assert each == pytest.approx(found[0], rel=1e-6)
    return found


def _kind_of(page: Any, text: str, tiff: Any) -> str:
    noted = re.search(r"kind = (\w+)", text) or re.search(r'K="kind">(\w+)', text)
    noted = noted or re.search(r"pixels are (\w+)", page.software)
    if page.photometric == 3 or page.bitspersample == 1 or noted:
        return noted[1] if noted else "binary" if page.bitspersample == 1 else "labels"
    if page.photometric in (2, 6):
        return "rgb"
    series = tiff.series[0]
    channels = dict(zip(series.axes, series.shape, strict=True)).get("C", 1) if tiff.is_ome else page.samplesperpixel
    return "grey" if channels == 1 else "multichannel"


def _nearest(levels: list[Any]) -> bool:
    """Whether a level has the top left pixels of the one below, as labels must."""
    if len(levels) < 2:
        return True
    height, width = levels[1].shape[-2:]
    return bool((levels[0][..., ::2, ::2][..., :height, :width] == levels[1]).all())


def _fields(text: str, form: str) -> dict[str, Any]:
    """"name = value" of a description."""
    line = text if form == "aperio" else text.split("\n")[0]
    pairs = dict(pair.split(" = ", 1) for pair in line.split("|") if " = " in pair)
    power = pairs.get("AppMag" if form == "aperio" else "objective_power")
    found: dict[str, Any] = {"objective_power": power and float(power)}
    for name in ("vendor", "model", "software"):
        found[name] = pairs.get(f"scanner_{name}")
    for name in ("z_spacing", "time_increment"):
        found[name] = float(pairs[name]) if name in pairs else None
    return found


def _ome(xml: str, planes: list[int]) -> dict[str, Any]:
    root = ElementTree.fromstring(xml)
    image = root.find(f"{_NAMESPACE}Image")
    pixels = image.find(f"{_NAMESPACE}Pixels")
    microscope, objective = (root.find(f".//{_NAMESPACE}{name}") for name in ("Microscope", "Objective"))
    own = {
        pair.get("K"): pair.text
        for one in root.iter(f"{_NAMESPACE}MapAnnotation")
        if one.get("Namespace") == "slidewright/kept"
        for pair in one.iter(f"{_NAMESPACE}M")
    }
    said = image.find(f"{_NAMESPACE}Description")
    channels = pixels.findall(f"{_NAMESPACE}Channel")
    names, colors = ([channel.get(name) for channel in channels] for name in ("Name", "Color"))
    sizes = [pixels.get(f"PhysicalSize{axis}") for axis in "XY"]
    assert {pixels.get(f"PhysicalSize{axis}Unit", "µm") for axis in "XYZ"} == {"µm"}
    assert pixels.get("TimeIncrementUnit", "s") == "s"
    bits, kind = int(pixels.get("SignificantBits")), pixels.get("Type")
    steps = {"z_spacing": pixels.get("PhysicalSizeZ"), "time_increment": pixels.get("TimeIncrement")}
    settings = image.find(f"{_NAMESPACE}ObjectiveSettings")
    assert settings is None or settings.get("ID") == objective.get("ID")
    return {
        "mpp of the XML": None if sizes[0] is None else pytest.approx([float(size) for size in sizes], rel=1e-6),
        "objective_power": None if settings is None else float(objective.get("NominalMagnification")),
        "vendor": None if microscope is None else microscope.get("Manufacturer"),
        "model": None if microscope is None else microscope.get("Model"),
        "software": own.get("scanner_software"),
        "description": "" if said is None else said.text,
        "bits": bits if kind == "uint16" and bits < 16 else None,
        "names": names if any(names) else None,
        "colors": [tuple((int(one) % (1 << 32)).to_bytes(4, "big")[:3]) for one in colors] if any(colors) else None,
        **{name: value and float(value) for name, value in steps.items()},
    }


def _ask_openslide(path: Path, form: str, found: dict[str, Any]) -> None:
    """The size of a pixel and the objective, where OpenSlide reads the file."""
    if openslide.OpenSlide.detect_format(str(path)) is None:
        return
    try:
        slide = openslide.OpenSlide(path)
    except openslide.OpenSlideError:
        return
    with slide:
        for axis, name in enumerate(("openslide.mpp-x", "openslide.mpp-y")):
            told = slide.properties.get(name)
            assert (told is None) == (found["mpp"] is None), name
            near = 0.01 if form == "aperio" else 1e-4  # for which it takes the one number of the description
            assert told is None or float(told) == pytest.approx(found["mpp"][0][axis], rel=near)
        if form == "aperio":
            told = slide.properties.get("openslide.objective-power")
            assert (told and float(told)) == found["objective_power"]


def read_zarr(path: Path, form: str) -> tuple[dict[str, Any], str]:
    """What an OME-Zarr says by NGFF, and in its own attribute what NGFF has no place for; and all its JSON."""
    group: Any = zarr.open_group(str(path), mode="r")
    attributes = dict(group.attrs)
    ome, own = attributes.get("ome", attributes), attributes["slidewright"]
    assert ("ome" in attributes) == (form == "zarr")
    (image,) = ome["multiscales"]
    axes = [axis["name"] for axis in image["axes"]]
    units = {axis["name"]: axis.get("unit") for axis in image["axes"]}
    scales = [dict(zip(axes, one["coordinateTransformations"][0]["scale"], strict=True)) for one in image["datasets"]]
    levels = [group[one["path"]] for one in image["datasets"]]
    found: dict[str, Any] = dict.fromkeys(("icc", "palette", "bits", *OPTICS)) | {"beside": {}}
    assert units["x"] == units["y"]
    assert units["x"] in (None, "micrometer")
    found["mpp"] = [(s["x"] / 2**n, s["y"] / 2**n) for n, s in enumerate(scales)] if units["x"] else None
    for axis, name, unit in (("z", "z_spacing", "micrometer"), ("t", "time_increment", "second")):
        assert units.get(axis) in (None, unit)
        found[name] = scales[0][axis] if units.get(axis) else own.get(name)
    found |= {name: own.get(f"scanner_{name}") for name in ("vendor", "model", "software")}
    found |= {"objective_power": own.get("objective_power"), "levels": len(levels), "kind": own["kind"]}
    found["icc"] = None if "icc_profile" not in own else base64.b64decode(own["icc_profile"])
    found["description"] = own.get("description", "")
    arrays = [level[...] for level in levels[:2]]
    found["nearest"] = _nearest(arrays) if "c" not in axes else False
    if "image-label" in ome and "colors" in ome["image-label"]:
        colors = {entry["label-value"]: tuple(entry["rgba"][:3]) for entry in ome["image-label"]["colors"]}
        found["palette"] = {n: color for n, color in colors.items() if n < 11}
    channels = ome.get("omero", {}).get("channels", [])
    found["names"] = [one["label"] for one in channels]
    found["colors"] = [tuple(bytes.fromhex(one["color"])) for one in channels]
    names = ("zarr.json", ".zattrs", ".zgroup", ".zarray")
    text = [json.loads((path / name).read_text()) for name in names if (path / name).exists()]
    return found, json.dumps(text, ensure_ascii=False)
