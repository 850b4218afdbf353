"""slideio: its `convert_scene` to an OME-TIFF; it has no setting for threads or for the subsampling of chroma."""

import json
import sys

import slideio

given = json.loads(sys.argv[1])
parameters = slideio.OMETIFFJpegParameters()
parameters.quality = given["quality"]
parameters.num_zoom_levels = given["levels"]
parameters.tile_width = parameters.tile_height = given["tile_size"]
with slideio.open_slide(given["source"], "AUTO") as slide:
    slideio.convert_scene(slide.get_scene(0), parameters, given["dest"])
