"""What a run really uses of each option, once it is decided, for the page about it and for a preview. Apart from the
options, which are what was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from slidewright.options import NGFF_VERSIONS, ConvertOptions
from slidewright.report import UNUSED

if TYPE_CHECKING:
    from slidewright.engine.run import Run

def settled(run: Run, options: ConvertOptions) -> Mapping[str, Any]:
    """The value of each option as it is used, by its name; `UNUSED` for one that has no place in this run."""
    encoding, pixels, image = run.encoding, run.encoding.pixels, run.image
    effort = encoding.codec.effort
    inside = ("444" if encoding.rgb_inside else encoding.subsampling) if encoding.compression == "jpeg" else None
    used: dict[str, Any] = {
        "tile_size": encoding.tile,
        "keep_tiles": run.keeping or "encoded: the source has no tiles of its own to keep",
        "compression": encoding.compression,
        "quality": encoding.effort if effort is not None and effort.name == "quality" else None,
        "effort": encoding.effort if effort is not None and effort.name == "effort" else None,
        "subsampling": inside if pixels.kind == "rgb" else None,
        "predictor": encoding.predictor > 1 if encoding.codec.predictor else None,
        "kind": pixels.kind,
        "background": ", ".join(f"{value:g}" for value in dict.fromkeys(pixels.background)),
        "bits": encoding.bits if pixels.kind == "binary" else None,
        "levels": len(run.plan.levels),
        "resampling": pixels.resampling,
        "mpp": "unknown" if image.mpp is None else " x ".join(f"{value:.6g}" for value in image.mpp),
        "description": image.description or "none",
        "objective_power": image.metadata.objective_power,
        "z_spacing": image.metadata.z_spacing,
        "time_increment": image.metadata.time_increment,
        "associated": ", ".join([item.name for item in image.associated] + ["thumbnail"] * image.thumbnail) or "none",
        "n_workers": run.n_workers,
        "block_tiles": run.plan.passes[0].block_tiles,
        "scratch": run.temporary,
        "timeout": options.timeout or "no limit",
        "on_corrupt": options.on_corrupt or ("kept, with a warning" if image.kept is not None else "error"),
        "memory": options.memory or "what is free",
    }
    if run.format.is_folder:
        used |= dict.fromkeys(("bigtiff", "strict", "flavour"))
        used["ngff"] = options.ngff or NGFF_VERSIONS[-1]
    values = {field.name: getattr(options, field.name) for field in fields(options)} | used
    return {name: UNUSED if value is None else value for name, value in values.items()}
