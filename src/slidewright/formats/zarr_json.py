"""JSON files of a zarr hierarchy: written so that a reader sees the old file or the new one, never a part."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from slidewright.system.file_lock import FileLock
from slidewright.system.files import regular, remove, write_whole
from slidewright.system.json_file import read_json

_LOCK = ".slidewright-labels.lock"
_LARGE = 1 << 19  # characters; palettes of 256 colours and common ICC profiles are smaller
_PATIENCE = 30.0  # seconds for others, of which each needs some milliseconds, unless it is stopped


def write_json(path: str, value: dict[str, Any]) -> None:
    """Write a file, whole and on the disk, under its name; without blanks where they would be most of a large one, as
    of the colours of many labels.
    """
    write_whole(path, _encoded(value), sync=True)


def has_json(path: str, value: dict[str, Any]) -> bool:
    """Whether a file is what `write_json` makes of a value; raises OSError."""
    with open(path, "rb", opener=regular) as file:
        return file.read() == _encoded(value)


def _encoded(value: dict[str, Any]) -> bytes:
    text = json.dumps(value, separators=(",", ":"))
    return (text if len(text) > _LARGE else json.dumps(value, indent=2)).encode()


def mark_series(group: str, ngff: str) -> None:
    """Say of a group that it holds images named 0, 1, ... (`bioformats2raw.layout`, NGFF); what it says else stays."""
    path = os.path.join(group, "zarr.json" if ngff == "0.5" else ".zattrs")
    if os.path.exists(path):
        return
    layout: dict[str, Any] = {"bioformats2raw.layout": 3}
    if ngff == "0.5":
        attributes = {"ome": {"version": ngff, **layout}}
        write_json(path, {"zarr_format": 3, "node_type": "group", "attributes": attributes})
    else:
        write_json(os.path.join(group, ".zgroup"), {"zarr_format": 2})
        write_json(path, layout)


def list_label(group: str, name: str, ngff: str) -> None:
    """Add a label image to the list of its group, which is made where there is none; what is listed stays, also where
    several runs do this at once.
    """
    path = os.path.join(group, _LOCK)
    lock = _locked(path)
    try:
        _list_label(group, name, ngff)
    finally:
        remove(path)
        lock.release()


def _locked(path: str) -> FileLock:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return FileLock(path, wait=False)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise OSError(f"another process has held {path!r} for {_PATIENCE:g} s") from None
        time.sleep(0.02)


def _list_label(group: str, name: str, ngff: str) -> None:
    path = os.path.join(group, "zarr.json" if ngff == "0.5" else ".zattrs")
    value: dict[str, Any] = {}
    if os.path.exists(path):
        value = read_json(path)
    try:
        attributes = value.setdefault("attributes", {}) if ngff == "0.5" else value
        ome = attributes.setdefault("ome", {"version": ngff}) if ngff == "0.5" else attributes
        names = ome.setdefault("labels", [])
        if not isinstance(names, list):
            raise TypeError
    except (AttributeError, TypeError):
        raise ValueError("its metadata are not those of a group of labels") from None
    if name not in names:
        names.append(name)
    if ngff == "0.5":
        value |= {"zarr_format": 3, "node_type": "group"}
    else:
        write_json(os.path.join(group, ".zgroup"), {"zarr_format": 2})
    write_json(path, value)
