"""OME-XML against its schema, offline: `ome-types` ships it."""

from __future__ import annotations

import functools
from pathlib import Path

import ome_types
import xmlschema


@functools.cache
def _schema() -> xmlschema.XMLSchema:
    return xmlschema.XMLSchema(Path(ome_types.__file__).parent / "ome-2016-06.xsd", allow="local")


def validate_xml(xml: str) -> None:
    """Raise where the document breaks a rule."""
    _schema().validate(xml)
