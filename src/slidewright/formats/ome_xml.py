"""The OME-XML of an OME-TIFF (schema 2016-06): what its images are and in which directory each plane lies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from slidewright.formats.tiff_tags import noted_kind
from slidewright.geometry import SINGLE, Stack
from slidewright.tiff.vendor_metadata import OWN_NAMESPACE

if TYPE_CHECKING:
    from slidewright.formats.associated import Associated
    from slidewright.formats.base import ImageDescription

NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_SCHEMA = f"{NAMESPACE} {NAMESPACE}/ome.xsd"
_INSTANCE = "http://www.w3.org/2001/XMLSchema-instance"
_TYPES = {"float32": "float"}
_OPAQUE = 255
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no XML can hold, however it is written (XML 1.0, section 2.2)."""


def ome_xml(image: ImageDescription, associated: Sequence[tuple[Associated, int]]) -> str:
    """The document; `associated` are the images beside the levels, each with the number of its directory.

    It is the same for the same image: there is no UUID, which only a set of several files needs, and no date.
    """
    root = Element("OME", {"xmlns": NAMESPACE, "xmlns:xsi": _INSTANCE, "xsi:schemaLocation": _SCHEMA})
    root.set("Creator", image.software)
    instrument = _instrument(root, image)
    element = _image(root, 0, "image", image.description)
    if instrument:
        SubElement(element, "InstrumentRef", ID="Instrument:0")
    if image.metadata.objective_power is not None:
        SubElement(element, "ObjectiveSettings", ID="Objective:0:0")
    _pyramid(element, image)
    for number, (extra, directory) in enumerate(associated, 1):
        height, width, samples = extra.pixels.shape
        element = _image(root, number, extra.name, None)
        pixels = _pixels(element, number, (height, width), "uint8", samples, samples > 1)
        SubElement(pixels, "Channel", ID=f"Channel:{number}:0", SamplesPerPixel=str(samples))
        SubElement(pixels, "TiffData", FirstC="0", FirstT="0", FirstZ="0", IFD=str(directory), PlaneCount="1")
    _annotations(root, image)
    document = _NO_XML.sub("\ufffd", ElementTree.tostring(root, encoding="unicode"))
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{document}'


def _instrument(root: Element, image: ImageDescription) -> bool:
    """The scanner and its objective, where one of them is known."""
    said = image.metadata
    if said.objective_power is None and said.scanner_vendor is None and said.scanner_model is None:
        return False
    instrument = SubElement(root, "Instrument", ID="Instrument:0")
    microscope = {"Manufacturer": said.scanner_vendor, "Model": said.scanner_model}
    known = {name: value for name, value in microscope.items() if value is not None}
    if known:
        SubElement(instrument, "Microscope", known)
    if said.objective_power is not None:
        power = f"{said.objective_power:g}"
        SubElement(instrument, "Objective", ID="Objective:0:0", NominalMagnification=power)
    return True


def _image(root: Element, number: int, name: str, description: str | None) -> Element:
    image = SubElement(root, "Image", ID=f"Image:{number}", Name=name)
    if description is not None:
        SubElement(image, "Description").text = description
    return image


def _pixels(
    image: Element,
    number: int,
    size: tuple[int, int],
    kind: str,
    channels: int,
    interleaved: bool,
    stack: Stack = SINGLE,
) -> Element:
    height, width = size
    return SubElement(
        image,
        "Pixels",
        ID=f"Pixels:{number}",
        DimensionOrder="XYCZT",
        Type=kind,
        SizeX=str(width),
        SizeY=str(height),
        SizeC=str(channels),
        SizeZ=str(stack.z),
        SizeT=str(stack.t),
        BigEndian="false",
        Interleaved=str(interleaved).lower(),
    )


def _pyramid(element: Element, image: ImageDescription) -> None:
    """Pixels, channels and planes of the pyramid, of which the levels are nobody's business but the directories'."""
    encoding, plan, said = image.encoding, image.plan, image.metadata
    kind = "bit" if encoding.bits == 1 else _TYPES.get(encoding.dtype, encoding.dtype)
    planes, stack = encoding.pixels.frame_planes, encoding.pixels.stack
    channels = planes * encoding.samples
    pixels = _pixels(element, 0, plan.levels[0].size, kind, channels, encoding.samples > 1, stack)
    pixels.set("SignificantBits", str(said.significant_bits or encoding.bits))
    if image.mpp is not None:
        for axis, value in zip("XY", image.mpp, strict=True):
            pixels.set(f"PhysicalSize{axis}", repr(float(value)))
            pixels.set(f"PhysicalSize{axis}Unit", "µm")
    if said.z_spacing is not None:
        pixels.set("PhysicalSizeZ", repr(float(said.z_spacing)))
        pixels.set("PhysicalSizeZUnit", "µm")
    if said.time_increment is not None:
        pixels.set("TimeIncrement", repr(float(said.time_increment)))
        pixels.set("TimeIncrementUnit", "s")
    for plane in range(planes):
        channel = SubElement(pixels, "Channel", ID=f"Channel:0:{plane}", SamplesPerPixel=str(encoding.samples))
        known = said.channels[plane] if planes == len(said.channels) else None
        if known is not None and known.name is not None:
            channel.set("Name", known.name)
        if known is not None and known.color is not None:
            channel.set("Color", str(_color(known.color)))
    for plane in range(plan.planes):
        frame, channel_plane = divmod(plane, planes)
        time, depth = divmod(frame, stack.z)
        place = {"FirstC": str(channel_plane * encoding.samples), "FirstT": str(time), "FirstZ": str(depth)}
        place["IFD"] = str(plane)
        SubElement(pixels, "TiffData", place, PlaneCount="1")


def _color(color: tuple[int, int, int]) -> int:
    """A colour as OME has it: red, green, blue and alpha in one signed number."""
    value = int.from_bytes(bytes((*color, _OPAQUE)), "big")
    return value - (1 << 32) if value >= 1 << 31 else value


def _annotations(root: Element, image: ImageDescription) -> None:
    """What the schema has no place for, and what the source says beside, where all of it was asked for."""
    said = image.metadata
    own = noted_kind(image)
    if said.scanner_software is not None:
        own["scanner_software"] = said.scanner_software
    if said.background is not None:
        own["background"] = said.known["background"]
    kinds = (("slidewright/source", said.identifying), (OWN_NAMESPACE, tuple(own.items())))
    given = [(namespace, fields) for namespace, fields in kinds if fields]
    container = SubElement(root, "StructuredAnnotations") if given else root
    for number, (namespace, fields) in enumerate(given):
        annotation = SubElement(container, "MapAnnotation", ID=f"Annotation:{number}", Namespace=namespace)
        value = SubElement(annotation, "Value")
        for name, content in fields:
            SubElement(value, "M", K=name).text = content
