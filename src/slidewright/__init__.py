"""slidewright writes large slides as pyramids, in parallel.

The front door: names, and nothing else. Importing it starts nothing and loads none of the heavy libraries; a name is
resolved when it is first used.

The packages, in the order in which a pixel goes through them:

- `sources`: where pixels come from; `tiff`, the one reader of TIFFs, lies under it
- `pyramid`: blocks of pixels to the tiles of every level; `codecs`: a tile to a segment
- `engine`: who does it: coordinator, workers, the ring between them, the one writer
- `formats`: segments to a file; `shards`: segments to parts of a job on disk
- `conversions`: what a caller asks for: `convert`, `restore`, `PyramidWriter`, `shard`, `assemble`, `batch`
- `inspection` looks at files, `reporting` tells of a run, `system` is what the operating system gives

`docs/developers.md` has the map, the words and the rule of who may import whom.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from slidewright._version import __version__

if TYPE_CHECKING:
    from slidewright.conversions.archive import RestoreReport, restore
    from slidewright.conversions.assemble import assemble
    from slidewright.conversions.batch import BatchReport, batch
    from slidewright.conversions.batch_slide import BatchItem
    from slidewright.conversions.convert import convert
    from slidewright.conversions.preview import Preview, preview
    from slidewright.conversions.pyramid_writer import PyramidWriter
    from slidewright.conversions.shard import ShardReport, shard
    from slidewright.errors import (
        CorruptTileError,
        DestinationError,
        OptionError,
        OutputError,
        RunError,
        ShardError,
        SlidewrightError,
        SourceError,
        VerifyError,
    )
    from slidewright.inspection.info import info
    from slidewright.inspection.verify import verify_file
    from slidewright.metadata import Metadata
    from slidewright.options import ConvertOptions
    from slidewright.report import LevelReport, Progress, Report
    from slidewright.sources.open import open_source

_HOMES = {
    "PyramidWriter": "conversions.pyramid_writer",
    "convert": "conversions.convert",
    "BatchItem": "conversions.batch_slide",
    "BatchReport": "conversions.batch",
    "RestoreReport": "conversions.archive",
    "assemble": "conversions.assemble",
    "restore": "conversions.archive",
    "Preview": "conversions.preview",
    "preview": "conversions.preview",
    "batch": "conversions.batch",
    "open_source": "sources.open",
    "shard": "conversions.shard",
    "ShardReport": "conversions.shard",
    "info": "inspection.info",
    "verify_file": "inspection.verify",
    "ConvertOptions": "options",
    "Metadata": "metadata",
    "LevelReport": "report",
    "Progress": "report",
    "Report": "report",
    **dict.fromkeys(
        (
            "CorruptTileError",
            "DestinationError",
            "OptionError",
            "OutputError",
            "RunError",
            "ShardError",
            "SlidewrightError",
            "SourceError",
            "VerifyError",
        ),
        "errors",
    ),
}

__all__ = [
    "BatchItem",
    "BatchReport",
    "ConvertOptions",
    "CorruptTileError",
    "DestinationError",
    "LevelReport",
    "Metadata",
    "OptionError",
    "OutputError",
    "Preview",
    "Progress",
    "PyramidWriter",
    "Report",
    "RestoreReport",
    "RunError",
    "ShardError",
    "ShardReport",
    "SlidewrightError",
    "SourceError",
    "VerifyError",
    "__version__",
    "assemble",
    "batch",
    "convert",
    "info",
    "open_source",
    "preview",
    "restore",
    "shard",
    "verify_file",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"slidewright.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'slidewright' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
