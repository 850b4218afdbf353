"""What the attributes of an OME-Zarr group say of its pixels: the colours of labels as NGFF has them, and what
slidewright notes there because NGFF has no place for it. All of it is taken with distrust.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from slidewright.metadata import Channel, Metadata, background_of, fields_of
from slidewright.options import KINDS
from slidewright.pixels import Colormap
from slidewright.sources.base import more_images
from slidewright.tiff.vendor_metadata import ome, untold_objective

_SAMPLES = {"rgb": 3, "rgba": 4, "grey": 1, "labels": 1, "binary": 1}
_COLORS = ("uint8", "uint16")
_SHOWN_IN = (
    *((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255)),
    *((255, 128, 0), (255, 255, 255)),
)
_KNOWN = {"ome", "slidewright", "version", "multiscales", "omero", "image-label", "labels", "bioformats2raw.layout"}
"""Attributes of an image that are read, or say how it lies in the store."""
_KNOWN_OF_OMERO = {"channels", "rdefs", "version"}


def made_up_channel(number: int, count: int) -> tuple[str, tuple[int, int, int]]:
    """The name and colour that a viewer is told of a channel of which nothing is known."""
    return f"Channel {number}", (255, 255, 255) if count == 1 else _SHOWN_IN[number % len(_SHOWN_IN)]


class OmeAttributes:
    """Reads the attributes of a group; what makes no sense is as if it were not there."""

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        inner, own = attributes.get("ome"), attributes.get("slidewright")
        self._all = attributes
        self._ome: Mapping[str, Any] = inner if isinstance(inner, dict) else attributes
        self._own: Mapping[str, Any] = own if isinstance(own, dict) else {}

    @property
    def any_kind(self) -> str | None:
        """What the pixels were when they were written."""
        kind = self._own.get("kind")
        return kind if isinstance(kind, str) and kind in KINDS else None

    def kind(self, samples: int, dtype: str) -> str | None:
        """The same, where it fits such pixels."""
        kind = self.any_kind
        if kind is None or _SAMPLES.get(kind, samples) != samples or (kind in ("rgb", "rgba") and dtype not in _COLORS):
            return None
        return kind

    @property
    def software(self) -> str | None:
        """What wrote it."""
        return self._text("software")

    @property
    def description(self) -> str | None:
        """What a TIFF says in its ImageDescription."""
        return self._text("description")

    @property
    def icc_profile(self) -> bytes | None:
        """The ICC profile."""
        try:
            return base64.b64decode(self._text("icc_profile") or "", validate=True) or None
        except (binascii.Error, ValueError):
            return None

    @property
    def metadata(self) -> Metadata:
        """Optics and scanner, and what identifies."""
        listed = self._own.get("identifying")
        pairs = listed if isinstance(listed, list) else []
        kept = [(str(p[0]), str(p[1])) for p in pairs if isinstance(p, list) and len(p) == 2]
        return Metadata(
            objective_power=self._number("objective_power"),
            z_spacing=self._number("z_spacing"),
            time_increment=self._number("time_increment"),
            scanner_vendor=self._text("scanner_vendor"),
            scanner_model=self._text("scanner_model"),
            scanner_software=self._text("scanner_software"),
            background=background_of(self._text("background")),
            identifying=(*kept, *self._unknown()),
        )

    def _unknown(self) -> tuple[tuple[str, str], ...]:
        """Names of the image, and attributes that nobody here knows."""
        images, omero = self._ome.get("multiscales"), self._ome.get("omero")
        named = [one.get("name") for one in images if isinstance(one, dict)] if isinstance(images, list) else []
        found = {} if self._own else {"Name": ", ".join(str(name) for name in named if name)}
        for prefix, holder, known in (("", {**self._all, **self._ome}, _KNOWN), ("omero ", omero, _KNOWN_OF_OMERO)):
            more = {} if not isinstance(holder, Mapping) else holder
            found |= {f"{prefix}{name}": json.dumps(value) for name, value in more.items() if name not in known}
        return fields_of(found)

    def left_out(self, samples: int, dtype: str) -> tuple[str, ...]:
        """What is said of labels that is not passed on, as clauses of a warning."""
        label = self._ome.get("image-label")
        entries = label.get("colors") if isinstance(label, dict) else None
        colors = [one for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []
        found = []
        if samples == 1 and colors and (dtype not in _COLORS or self.colormap is None):
            why = f"which are of {dtype}" if dtype not in _COLORS else "which are not all of labels from 0 to 65535"
            found.append(f"the colours of its labels, {why}")
        elif any(isinstance(one.get("rgba"), list) and one["rgba"][3:] not in ([], [255]) for one in colors):
            found.append("which colours of its labels are transparent")
        if isinstance(label, dict) and label.get("properties"):
            found.append("the properties of its labels")
        return tuple(found)

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Names and colours of channels, as NGFF's "omero" has them for viewers; whatever else is there, none, and none
        that slidewright has made up.
        """
        omero = self._ome.get("omero")
        listed = omero.get("channels") if isinstance(omero, Mapping) else None
        told = [one if isinstance(one, Mapping) else {} for one in listed] if isinstance(listed, list) else []
        labels = [one.get("label") for one in told]  # spatialdata's are numbers
        names = [None if label in (None, "") else str(label) for label in labels]
        colors = [re.fullmatch("#?([0-9a-fA-F]{6})", str(one.get("color", ""))) for one in told]
        found = []
        for number, (name, digits) in enumerate(zip(names, colors, strict=True)):
            red, green, blue = bytes.fromhex(digits[1] if digits else "000000")
            channel = Channel(name, (red, green, blue) if digits else None)
            made_up = made_up_channel(number, len(told)) if self._own else (None, None)
            if (channel.name, channel.color) == made_up and self._own.get("channel_colors") != "given":
                channel = Channel()
            found.append(replace(channel, name=None) if name == made_up[0] else channel)
        return tuple(found) if any(channel != Channel() for channel in found) else ()

    @property
    def colormap(self) -> Colormap | None:
        """The colours of labels, black where a value has none."""
        label = self._ome.get("image-label")
        try:
            entries = label["colors"] if isinstance(label, dict) else []
            colors = {int(entry["label-value"]): [int(part) * 257 for part in entry["rgba"][:3]] for entry in entries}
        except (KeyError, TypeError, ValueError):
            return None
        if not colors or min(colors) < 0 or max(colors) > 65535:
            return None
        if any(len(color) != 3 or not 0 <= min(color) <= max(color) <= 65535 for color in colors.values()):
            return None
        wide = {value: (red, green, blue) for value, (red, green, blue) in colors.items()}
        return tuple(wide.get(value, (0, 0, 0)) for value in range(max(wide) + 1))

    def _number(self, name: str) -> float | None:
        value = self._own.get(name)
        number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else 0.0
        return number if 0 < number < 1e6 else None

    def _text(self, name: str) -> str | None:
        text = self._own.get(name)
        return text if isinstance(text, str) and text else None


def ome_of(node: Any) -> Mapping[str, Any]:
    """A group's OME-NGFF metadata: under "ome" from version 0.5 on, at the top before."""
    attributes = dict(node.attrs)
    inner = attributes.get("ome")
    return inner if isinstance(inner, dict) else attributes


def labels_of(node: Any) -> tuple[str, ...]:
    """The labels that NGFF puts into a group beside the levels of their image, as a clause of a warning."""
    try:
        names = ome_of(node["labels"]).get("labels")
    except Exception:  # there are none, or they are damaged, which the image need not be
        return ()
    listed = ", ".join(map(str, names)) if isinstance(names, list) else ""
    return (f"the labels beside it ({listed}), each an image of its own under labels/",) if listed else ()


def other_members(node: Any) -> tuple[str, ...]:
    """The images of a group by bioformats2raw after its first, as a clause of a warning."""
    try:
        return more_images(sorted(int(name) for name in node.group_keys() if name.isdecimal() and int(name)))
    except Exception:  # a store that can't list what it has, as over HTTP
        return ()


def described_beside(node: Any, name: str) -> tuple[Metadata, tuple[str, ...]]:
    """What the OME-XML that bioformats2raw puts beside its images says of one of them, which has a number for a name in
    a group or folder; and what of that is not passed on, as clauses of a warning.
    """
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    from slidewright.sources.access.zarr_store import open_store

    folder, member = os.path.split((node.path or name).rstrip("/"))
    try:
        series = int(member)
        store = node.store if node.path else open_store(folder, "").store
        key = "/".join((*([folder] if node.path and folder else []), "OME/METADATA.ome.xml"))
        xml = sync(store.get(key, default_buffer_prototype())).to_bytes().decode("utf-8")
        return ome(xml, series), untold_objective(xml, series)
    except Exception:  # there is none, or it is damaged, which the image need not be
        return Metadata(), ()


def step_of(
    axes: Sequence[Mapping[str, Any]],
    letters: str,
    letter: str,
    units: Mapping[str, float],
    holders: tuple[Mapping[str, Any], ...],
) -> float | None:
    """From one place of an axis to the next, of the scales of the dataset and of the whole, where the axis has a unit.
    """
    index = letters.find(letter)
    unit = units.get(str(axes[index].get("unit", "")).lower()) if index >= 0 else None
    scales = _numbers("scale", index, letters, holders) if index >= 0 else []
    value = math.prod(scales) * unit if unit and scales else 0.0
    return value if 0 < value < 1e9 else None


def left_out_of(
    letters: str,
    mpp: tuple[float, float] | None,
    steps: Mapping[str, float | None],
    holders: tuple[Mapping[str, Any], ...],
) -> tuple[str, ...]:
    """What the transformations of the largest level say that is not passed on, as clauses of a warning; `steps` are
    those along z and t, where they are known.
    """
    places = [letters.index(letter) for letter in "xy" if letter in letters]
    others = {letter: index for index, letter in enumerate(letters) if letter in steps}
    scales = [f"{math.prod(_numbers('scale', index, letters, holders)):.4g}" for index in places]
    moved = [f"{sum(_numbers('translation', index, letters, holders)):.4g}" for index in places]
    found = []
    if mpp is None and any(scale != "1" for scale in scales):
        found.append(f"its scale of {' x '.join(scales)}, of which it names no unit of length (give mpp)")
    for letter, index in others.items():
        step = math.prod(_numbers("scale", index, letters, holders))
        if steps[letter] is None and step != 1:
            found.append(f"its scale of {step:.4g} along {letter}, of which it names no known unit")
    if any(float(number) for number in moved):
        found.append(f"where it lies (a translation of {' and '.join(moved)} along x and y)")
    elif any(sum(_numbers("translation", index, letters, holders)) for index in others.values()):
        found.append("where its planes lie (a translation along z or t)")
    told = [one for holder in holders for one in holder.get("coordinateTransformations") or []]
    others_of = {str(one.get("type")) for one in told} - {"scale", "translation", "identity"}
    if others_of:
        found.append(f"where it lies (a transformation of kind {', '.join(sorted(others_of))})")
    return tuple(found)


def _numbers(kind: str, index: int, letters: str, holders: tuple[Mapping[str, Any], ...]) -> list[float]:
    """What each transformation of a kind says of an axis."""
    return [
        float(transform[kind][index])
        for holder in holders
        for transform in holder.get("coordinateTransformations") or []
        if transform.get("type") == kind and len(transform.get(kind) or ()) == len(letters)
    ]
