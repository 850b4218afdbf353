"""The tables of docs/compression.md, made from the compression table and the matrix of readers.

Run as a script, it writes them into the page; the test compares.
"""

from __future__ import annotations

import re
from pathlib import Path

from cells import READERS

from slidewright.codecs import ALIASES, Codec, codecs_of
from slidewright.formats.tiff_tags import COMPRESSION

CODECS = codecs_of("tiff")
PAGE = Path(__file__).parent.parent / "docs" / "compression.md"
_KINDS = {"rgb": "RGB", "rgba": "RGBA", "grey": "grey", "multichannel": "channels", "labels": "labels"}
_KINDS |= {"binary": "masks"}
_TITLES = {"pillow": "Pillow", "openslide": "OpenSlide"}


def tables() -> dict[str, str]:
    """Each table of the page by the name in its markers."""
    return {"codecs": _codecs(), "effort": _effort(), "kinds": _kinds(), "readers": _readers(), "aliases": _aliases()}


def written(page: str) -> str:
    """The page with its tables as they should be."""
    for name, table in tables().items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        block = f"{begin}\n\n{table}\n\n{end}"
        page, found = re.subn(f"{begin}.*?{end}", block, page, flags=re.DOTALL)
        if found != 1:
            raise ValueError(f"the page has {found} tables {name!r}")
    return page


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _codecs() -> str:
    rows = [(f"`{c.name}`", c.title, str(COMPRESSION[c.name]), "yes" if c.predictor else "") for c in CODECS.values()]
    return _table(("name", "what it is", "Compression tag", "predictor"), rows)


def _effort() -> str:
    rows = []
    for codec in CODECS.values():
        if (effort := codec.effort) is not None:
            span = f"{effort.low} to {effort.high}"
            rows.append((f"`{codec.name}`", f"`{effort.name}`", span, str(effort.default), effort.meaning))
    return _table(("compression", "option", "range", "default", "what it maps to"), rows)


def _kinds() -> str:
    rows = [(f"`{codec.name}`", *(_dtypes(codec, kind) for kind in _KINDS)) for codec in CODECS.values()]
    return _table(("", *_KINDS.values()), rows)


def _dtypes(codec: Codec, kind: str) -> str:
    dtypes = codec.accepts.get(kind, ())
    if kind == "binary" and dtypes:
        return " or ".join(f"{bits} bit" for bits in sorted(codec.bits))
    unsigned = [dtype[1:] for dtype in dtypes if dtype.startswith("uint")]
    words = [f"(u){dtype}" if dtype in dtypes else f"u{dtype}" for dtype in unsigned]
    return ", ".join(words + ["float32"] * ("float32" in dtypes)) or "no"


def _readers() -> str:
    rows = [(f"`{name}`", *("yes" if name in READERS[reader][0] else "" for reader in READERS)) for name in CODECS]
    return _table(("", *(_TITLES.get(reader, reader) for reader in READERS)), rows)


def _aliases() -> str:
    by_name = {name: [alias for alias, other in ALIASES.items() if other == name] for name in CODECS}
    rows = [(f"`{name}`", ", ".join(f"`{alias}`" for alias in aliases)) for name, aliases in by_name.items() if aliases]
    return _table(("name", "aliases"), rows)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
