"""cuCIM's converter, as `cucim convert` calls it: OpenSlide's DeepZoom in threads, levels in files, tifffile writes.

It runs on the CPU alone. JPEG has always quality 95.
"""

import json
import sys
from pathlib import Path

from cucim.clara.converter import tiff

given = json.loads(sys.argv[1])
dest = Path(given["dest"])
compression = None if given["compression"] == "none" else given["compression"]
tiff.svs2tif(given["source"], dest.parent, given["tile_size"], 0, given["workers"], compression, dest.name)
