"""A picture of an OME-Zarr in a real browser: Viv from npm, in a Chromium without a window, from a server on 127.0.0.1.

    python tests/readers/browser.py FOLDER STORE.ome.zarr OUT.png [SECONDS]

installs Viv into FOLDER where it is not there yet (npm, node and Chromium must be), and waits SECONDS (15) before it
takes the picture, which is for a person to look at. Without "overrides" in browser/package.json it is Viv as npm
installs it, with an older zarrita.
"""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

HERE = Path(__file__).parent / "browser"
NPM = ("npm", "install", "--ignore-scripts", "--legacy-peer-deps", "--no-fund", "--no-audit")


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves files, and parts of them, which shards are read in."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """A part of a file, if that was asked for."""
        path = self.translate_path(self.path)
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if wanted is None or not os.path.isfile(path):
            super().do_GET()
            return
        size, (first, last) = os.path.getsize(path), wanted.groups()
        start = int(first) if first else max(0, size - int(last))
        end = min(size, int(last) + 1) if first and last else size
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        with open(path, "rb") as file:
            file.seek(start)
            self.wfile.write(file.read(end - start))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main(folder: str, store: str, out: str, seconds: str = "15") -> None:
    """Install, bundle, serve, take the picture."""
    place = Path(folder).resolve()
    shutil.copytree(HERE, place, dirs_exist_ok=True)
    if not (place / "node_modules").exists():
        subprocess.run(NPM, cwd=place, check=True)
    bundle = ["node_modules/.bin/esbuild", "viv.jsx", "--bundle", "--format=esm", "--outfile=bundle.js"]
    subprocess.run([*bundle, '--define:process.env.NODE_ENV="production"', "--log-level=error"], cwd=place, check=True)
    served = place / "store"
    served.unlink(missing_ok=True)
    served.symlink_to(Path(store).resolve())
    chromium = shutil.which("chromium") or shutil.which("google-chrome") or "chromium"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Server, directory=str(place))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/page.html?store=store"
        subprocess.run(["node", "shot.mjs", chromium, url, str(Path(out).resolve()), seconds], cwd=place, check=True)
        server.shutdown()


if __name__ == "__main__":
    if len(sys.argv) < 4:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
