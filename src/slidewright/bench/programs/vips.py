"""libvips: `tiffsave` through pyvips; its threads are set by VIPS_CONCURRENCY."""

import json
import sys

import pyvips

given = json.loads(sys.argv[1])
image = pyvips.Image.new_from_file(given["source"], access="sequential")
image.tiffsave(given["dest"], **given["arguments"])
