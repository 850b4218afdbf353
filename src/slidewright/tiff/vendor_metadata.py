"""What vendors write into a TIFF about optics, instrument and channels, sorted into what may be kept and what may not.

The list of what may be kept is here: a field that is not on it counts as identifying, because nobody knows what a
laboratory typed into it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from slidewright.metadata import Channel, Metadata, background_of, fields_of
from slidewright.tiff.metadata import KIND_MARK, MICROMETRES, OWN, SECONDS, imagej_unit, positive
from slidewright.tiff.series import is_ours

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_OWN_FIELDS = (
    *("objective_power", "scanner_vendor", "scanner_model", "scanner_software"),
    *("z_spacing", "time_increment", "background"),
)
OWN_NAMESPACE = "slidewright/kept"
"""Of the annotation of an OME-XML in which slidewright keeps what the schema has no place for."""
_OME_PARTS = (
    *("Laser", "Arc", "Filament", "LightEmittingDiode", "GenericExcitationSource", "LightSourceSettings", "Detector"),
    *("DetectorSettings", "Filter", "FilterSet", "Dichroic", "TransmittanceRange", "ImagingEnvironment", "StageLabel"),
    *("Screen", "Reagent", "Folder", "ExperimenterGroup"),
)
_OME_INSTRUMENT = {name: {"ID"} for name in _OME_PARTS} | {
    "Plate": {"ID", "Name"},  # the name is told by itself
    "Well": {"ID", "Row", "Column"},
    "Microscope": {"Manufacturer", "Model"},
    "Objective": {"ID", "NominalMagnification"},
    "ObjectiveSettings": {"ID"},
    "Channel": {"ID", "Name", "Color", "SamplesPerPixel"},
}
"""Elements of OME, with the attributes that are read elsewhere, or say where they are and how they belong together."""
_OME_TEXTS = {"Rights", "Project", "Dataset", "Plate", "Screen", "Folder", "Experiment", "ExperimenterGroup"}
"""Elements of OME that have free text in elements of their own."""
_OWN_NUMBERS = ("objective_power", "z_spacing", "time_increment")
_HARMLESS = {
    *("AppMag", "MPP", "StripeWidth", "Parmset", "Left", "Top", "LineCameraSkew", "LineAreaXOffset", "LineAreaYOffset"),
    *("Filtered", "OriginalWidth", "OriginalHeight", "Originalheight", "DisplayColor", "SessonMode", "Gamma"),
    *("Focus Offset", "Exposure Time", "Exposure Scale", "ICC Profile"),
}
"""Aperio's fields of optics and geometry, which identify nobody."""
_FILE_LABEL = re.compile(r"^[czt]:\d+/\d+|\.[a-z]\w{1,4}\b", re.IGNORECASE)
"""In the label of a slice that ImageJ made of the name of its file, by Bio-Formats or of images that became a stack."""
_PHILIPS = {
    "DICOM_MANUFACTURER": "scanner_vendor",
    "DICOM_MANUFACTURERS_MODEL_NAME": "scanner_model",
    "DICOM_SOFTWARE_VERSIONS": "scanner_software",
}
_PHILIPS_IDENTIFYING = (
    *("PATIENT", "ACCESSION", "STUDY", "BARCODE", "DATETIME", "SERIAL", "DESCRIPTION", "OPERATOR", "RACK", "SLOT"),
)


def metadata_of(tiff: Any, page: Any, series: int, vendor: str) -> Metadata:
    """What a file says of a series, whose full-size page is given: by its description, and by TIFF's own tags where
    that has nothing.
    """
    found, tags = _described(tiff, page, series, vendor), _plain_tags(page)
    make, model, software = (_text(page.tags.valueof(code) or "").strip("\0 ") for code in (271, 272, 305))
    software = software if (make or model) and not is_ours(tiff) else ""  # of the scanner, and not of any program
    bits = page.bitspersample if isinstance(page.bitspersample, int) and 8 < page.bitspersample < 16 else None
    return replace(
        found,
        significant_bits=found.significant_bits or bits,
        scanner_vendor=found.scanner_vendor or make or None,
        scanner_model=found.scanner_model or model or None,
        scanner_software=found.scanner_software or software or None,
        identifying=fields_of({**tags, **dict(found.identifying)}),
    )


def _described(tiff: Any, page: Any, series: int, vendor: str) -> Metadata:
    """What the description says."""
    description = str(page.description or "")
    if vendor == "svs":
        said = aperio(description)
        return replace(said, objective_power=None) if series else said  # a thumbnail's description is the slide's
    if vendor == "ome":
        return ome(str(tiff.ome_metadata or ""), series)
    if vendor == "philips":
        return _philips(description)
    if vendor == "ndpi":
        return _hamamatsu(page)
    if vendor == "qpi" and series == 0:
        return replace(_akoya(tiff), identifying=fields_of({"ImageDescription": description}))
    if tiff.is_imagej:
        return _imagej(tiff.imagej_metadata or {})
    if description.startswith(OWN):
        more = "\n".join(description.splitlines()[1:])
        return replace(own(description), identifying=fields_of({"ImageDescription": more}))
    return Metadata(identifying=fields_of({"ImageDescription": "" if page.is_shaped == description else description}))


def aperio(description: str) -> Metadata:
    """Aperio's description: a line of software, then "|name = value" again and again."""
    head, *parts = description.split("|")
    pairs = (part.split("=", 1) for part in parts if "=" in part)
    found = {name.strip(): value.strip() for name, value in pairs}
    if head.startswith("Aperio Image Library (slidewright"):
        kept = _own_values({name: found.pop(name) for name in _OWN_FIELDS if name in found})
    else:
        first = next(iter(head.splitlines()), "").strip()
        kept = Metadata(scanner_vendor="Aperio", scanner_software=first or None)
    return replace(
        kept,
        objective_power=positive(found.get("AppMag")),
        identifying=fields_of({name: value for name, value in found.items() if name not in _HARMLESS}),
    )


def ome(xml: str, series: int) -> Metadata:
    """The `series`-th Image of an OME-XML."""
    root, image = _image(xml, series)
    if root is None or image is None:
        return Metadata()
    pixels, instrument, powers = _first(image, "Pixels"), _instrument(root, image), _powers(root, image)
    own = _own_annotations(root)
    microscope = None if instrument is None else _first(instrument, "Microscope")
    return Metadata(
        objective_power=next(iter(powers)) if len(powers) == 1 else None,
        scanner_vendor=None if microscope is None else microscope.get("Manufacturer"),
        scanner_model=None if microscope is None else microscope.get("Model"),
        scanner_software=own.get("scanner_software"),
        background=background_of(own.get("background")),
        channels=() if pixels is None else _channels(pixels),
        z_spacing=_measure(pixels, "PhysicalSizeZ", "µm", MICROMETRES),
        time_increment=_measure(pixels, "TimeIncrement", "s", SECONDS),
        significant_bits=None if pixels is None else _significant_bits(pixels),
        identifying=_ome_identifying(root, image),
    )


def untold_objective(xml: str, series: int) -> tuple[str, ...]:
    """A clause of a warning about the `series`-th Image of an OME-XML, where it may be of several magnifications."""
    root, image = _image(xml, series)
    powers = set() if root is None or image is None else _powers(root, image)
    if len(powers) < 2:
        return ()
    listed = ", ".join(f"{power:g}" for power in sorted(power or 0 for power in powers) if power)
    return (f"which of its objectives it is of (magnifications of {listed}: give objective_power)",)


def _image(xml: str, series: int) -> tuple[Element | None, Element | None]:
    """An OME-XML, and an Image of it; None where there is none."""
    from xml.etree import ElementTree

    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return None, None
    images = _all(root, "Image")
    return root, images[series] if 0 <= series < len(images) else None


def _instrument(root: Element, image: Element) -> Element | None:
    used = _first(image, "InstrumentRef")
    return _by_id(root, "Instrument", None if used is None else used.get("ID"))


def _powers(root: Element, image: Element) -> set[float | None]:
    """The magnification of the objective that an image names, or where no image names any, of all that it has."""
    reference = _first(image, "ObjectiveSettings")
    if reference is not None:
        named = _by_id(root, "Objective", reference.get("ID"))
        found = [] if named is None else [named]
    elif _first(root, "ObjectiveSettings") is not None:  # which is another image's
        found = []
    else:
        instrument = _instrument(root, image)
        found = _all(root if instrument is None else instrument, "Objective")
    return {positive(one.get("NominalMagnification")) for one in found}


def own(description: str) -> Metadata:
    """What slidewright kept in a description of its own, see `as_description`."""
    pairs = (part.split(" = ", 1) for part in description.splitlines()[0].split("|")[1:] if " = " in part)
    return _own_values({name: value for name, value in pairs if name in _OWN_FIELDS})


def _own_values(found: dict[str, str]) -> Metadata:
    """Metadata of what `own_fields` gave."""
    background = background_of(found.pop("background", None))
    numbers = {name: positive(found.pop(name, None)) for name in _OWN_NUMBERS}
    values: dict[str, Any] = {**numbers, **found, "background": background}
    return Metadata(**values)


def as_description(metadata: Metadata, **more: str) -> str | None:
    """What may be kept, as a line for a generic TIFF, which has no tags for it; None where nothing is known."""
    known = [f"{name} = {value}" for name, value in {**own_fields(metadata), **more}.items()]
    return OWN + "|".join(known) if known else None


def own_kind(tiff: Any, description: str) -> str | None:
    """What slidewright noted of pixels that a TIFF takes for greys: "labels", "binary", or None."""
    if description.startswith(OWN):
        found = re.search(r"\|kind = (\w+)", description.splitlines()[0])
        kind = found and found[1]
    elif OWN_NAMESPACE in description:
        from xml.etree import ElementTree

        kind = _own_annotations(ElementTree.fromstring(str(tiff.ome_metadata))).get("kind")
    else:
        kind = str(tiff.pages.first.software).partition(KIND_MARK)[2].partition(",")[0]
    return kind if kind in ("labels", "binary") else None


def foreign_name(name: str) -> str:
    """The name of a field that may identify, in Aperio's description: in one piece, and none of optics or of ours."""
    whole = " ".join(re.split(r"[|=\s]+", name))
    return f"source {whole}" if whole in {*_HARMLESS, *_OWN_FIELDS} else whole


def own_fields(metadata: Metadata) -> dict[str, str]:
    """What may be kept, but for channels, each on one line and without what divides fields."""
    exact = {name: f"{getattr(metadata, name):.12g}" for name in _OWN_NUMBERS if getattr(metadata, name) is not None}
    values = {**metadata.known, **exact}.items()
    known = {name: value.replace("|", "/") for name, value in values if name in _OWN_FIELDS}
    return {name: " ".join(value.split()) for name, value in known.items()}


def _measure(pixels: Element | None, name: str, unit: str, units: Mapping[str, float]) -> float | None:
    """A length or time of the pixels; `unit` is the schema's default."""
    value = None if pixels is None else positive(pixels.get(name))
    scale = None if pixels is None else units.get(pixels.get(f"{name}Unit", unit).lower())
    return None if value is None or scale is None else value * scale  # "pixel" and "reference frame" are no lengths


def _significant_bits(pixels: Element) -> int | None:
    """SignificantBits, where they are fewer than the samples have."""
    bits, said = re.search(r"int(\d+)$", pixels.get("Type", "")), pixels.get("SignificantBits", "")
    return int(said) if bits and said.isdecimal() and 0 < int(said) < int(bits[1]) else None


def _channels(pixels: Element) -> tuple[Channel, ...]:
    found = tuple(Channel(one.get("Name"), _ome_color(one.get("Color"))) for one in _all(pixels, "Channel"))
    return found if any(channel != Channel() for channel in found) else ()


def _ome_color(text: str | None) -> tuple[int, int, int] | None:
    """A signed number of red, green, blue and alpha."""
    try:
        red, green, blue, _ = (int(text or "") % (1 << 32)).to_bytes(4, "big")
    except ValueError:
        return None
    return red, green, blue


def _ome_identifying(root: Element, image: Element) -> tuple[tuple[str, str], ...]:
    values = {"Name": image.get("Name", "")}
    for name in ("AcquisitionDate", "Description"):
        element = _first(image, name)
        values[name] = "" if element is None else element.text or ""
    if values["Name"] == "image":  # ours
        del values["Name"]
    for number, person in enumerate(_all(root, "Experimenter")):
        values[f"Experimenter {number}"] = " ".join(person.attrib.values())
    for name in ("Project", "Dataset", "Plate"):
        values[name] = ", ".join(one.get("Name", "") for one in _all(root, name))
    for element in root.iter():
        name = element.tag.rpartition("}")[2]
        if "SerialNumber" in element.attrib:
            values[f"{name} {element.get('ID', '')} SerialNumber"] = element.attrib["SerialNumber"]
        if name.endswith("Annotation") and name != "MapAnnotation":
            values[f"{name} {element.get('ID', '')}"] = " ".join(" ".join(element.itertext()).split())
        for child in element if name in _OME_TEXTS else ():
            values[f"{name} {element.get('ID', '')} {child.tag.rpartition('}')[2]}"] = child.text or ""
        unknown = {} if name not in _OME_INSTRUMENT else element.attrib.keys() - _OME_INSTRUMENT[name]
        values |= {f"{name} {element.get('ID', '')} {key}": element.attrib[key] for key in unknown}
    own = _own_annotations(root)
    for annotation in _all(root, "M"):
        if own.get(annotation.get("K", "M")) != annotation.text:
            values[annotation.get("K", "M")] = annotation.text or ""
    return fields_of(values)


def _own_annotations(root: Element) -> dict[str, str | None]:
    """What slidewright kept in an annotation of its own."""
    found = [one for one in _all(root, "MapAnnotation") if one.get("Namespace") == OWN_NAMESPACE]
    return {pair.get("K", ""): pair.text for one in found for pair in _all(one, "M")}


def _philips(xml: str) -> Metadata:
    from xml.etree import ElementTree

    try:
        attributes = _all(ElementTree.fromstring(xml), "Attribute")
    except ElementTree.ParseError:
        return Metadata()
    found: dict[str, str] = {}
    for one in attributes:
        found.setdefault(one.get("Name", ""), (one.text or "").strip().strip('"'))
    kept = {field: " ".join(re.split(r'[\s"]+', found[name])) for name, field in _PHILIPS.items() if found.get(name)}
    named = {name: value for name, value in found.items() if any(word in name for word in _PHILIPS_IDENTIFYING)}
    values: dict[str, Any] = {**kept, "identifying": fields_of(named)}
    return Metadata(**values)


def _hamamatsu(page: Any) -> Metadata:
    tags = page.ndpi_tags or {}
    kept = {"scanner_vendor": 271, "scanner_model": 272, "scanner_software": 305}
    known = {field: str(page.tags.valueof(code) or "").strip() or None for field, code in kept.items()}
    values: dict[str, Any] = {**known, "objective_power": positive(tags.get("Magnification"))}
    named = {name: str(value) for name, value in tags.items() if isinstance(value, str) or name == "SerialNumber"}
    named = {name: value for name, value in named.items() if name not in ("Make", "Model", "Software")}
    date = {"DateTime": str(page.tags.valueof(306) or "")}
    return Metadata(**values, identifying=fields_of({**named, **date}))


def _akoya(tiff: Any) -> Metadata:
    """The XML that each page of an Akoya (PerkinElmer) slide has: a page is a channel."""
    from xml.etree import ElementTree

    told: list[dict[str, str]] = []
    for page in tiff.series[0].levels[0].pages:
        try:
            root = ElementTree.fromstring(str(page.aspage().description or ""))
        except ElementTree.ParseError:
            return Metadata()
        told.append({one.tag: one.text.strip() for one in root if one.text and one.text.strip()})
    colors = [re.fullmatch(r"(\d{1,3}), ?(\d{1,3}), ?(\d{1,3})", one.get("Color", "")) for one in told]
    rgbs = [None if color is None else tuple(min(int(part), 255) for part in color.groups()) for color in colors]
    channels = [Channel(one.get("Name"), rgb) for one, rgb in zip(told, rgbs, strict=True)]  # type: ignore[arg-type]
    known = len(channels) > 1 and any(channel != Channel() for channel in channels)
    power = positive(told[0].get("Objective", "").lower().removesuffix("x")) if told else None
    return Metadata(objective_power=power, channels=tuple(channels) if known else ())


def _imagej(found: Mapping[str, Any]) -> Metadata:
    spacing, scale = positive(found.get("spacing")), imagej_unit(found, "z")
    interval, clock = positive(found.get("finterval")), SECONDS.get(str(found.get("tunit", "sec")).strip().lower())
    labels, tables = (_several(found.get(name)) for name in ("Labels", "LUTs"))
    count = int(found.get("channels", 1))
    colors = [tuple(int(value) for value in table[:, -1]) for table in tables[:count]]
    named = len(labels) == count > 1 and not any(_FILE_LABEL.search(str(label)) for label in labels)
    names = [str(label) for label in labels] if named else []
    channels = [
        Channel(names[n] if names else None, colors[n][:3] if len(colors) == count else None)  # type: ignore[arg-type]
        for n in range(count)
    ]
    known = any(channel != Channel() for channel in channels) and colors != [(255, 255, 255)]  # a grey is no colour
    return Metadata(
        channels=tuple(channels) if known else (),
        z_spacing=spacing * scale if spacing and scale and int(found.get("slices", 1)) > 1 else None,
        time_increment=interval * clock if interval and clock and int(found.get("frames", 1)) > 1 else None,
        identifying=fields_of(
            {"Info": str(found.get("Info", "")), "Labels": "" if named else "\n".join(map(str, labels))}
        ),
    )


def _plain_tags(page: Any) -> dict[str, str]:
    """TIFF 6.0's tags of who, when and where."""
    codes = {"DocumentName": 269, "PageName": 285, "DateTime": 306, "Artist": 315, "HostComputer": 316}
    codes |= {"XMP": 700, "Copyright": 33432, "EXIF": 34665, "GPS": 34853, "ImageUniqueID": 42016}
    codes["GDALMetadata"] = 42112
    values = {name: page.tags.valueof(code) or "" for name, code in codes.items()}
    return {name: _text(value) for name, value in values.items()}


def _several(value: Any) -> list[Any]:
    """What tifffile gives as a list, or by itself where there is one, or not at all."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _all(root: Element, name: str) -> list[Element]:
    return [element for element in root.iter() if element.tag.rpartition("}")[2] == name]


def _first(root: Element, name: str) -> Element | None:
    return next(iter(_all(root, name)), None)


def _by_id(root: Element, name: str, wanted: str | None) -> Element | None:
    """The element of this ID; where none is named, the only one."""
    found = _all(root, name)
    if wanted is None:
        return found[0] if len(found) == 1 else None
    return next((element for element in found if element.get("ID") == wanted), None)
