"""wsic 0.9: its reader and TIFF writer, as its command line puts them together."""

import json
import sys

from wsic.readers import Reader
from wsic.writers import TIFFWriter

CODECS = {"jpeg": "jpeg", "deflate": "deflate", "lzw": "lzw", "zstd": "zstd", "webp": "webp", "jpeg2000": "jpeg2000"}

if __name__ == "__main__":  # its workers may import this file again
    given = json.loads(sys.argv[1])
    reader = Reader.from_file(given["source"])
    effort = given["quality"] if given["compression"] == "jpeg" else given["effort"]
    tile = (given["tile_size"], given["tile_size"])
    writer = TIFFWriter(
        given["dest"],
        shape=reader.shape,
        tile_size=tile,
        codec=CODECS[given["compression"]],
        compression_level=-1 if effort is None else effort,
        microns_per_pixel=reader.microns_per_pixel,
        pyramid_downsamples=[2**level for level in range(1, given["levels"])],
    )
    writer.copy_from_reader(reader, num_workers=given["workers"], read_tile_size=(4096, 4096))
