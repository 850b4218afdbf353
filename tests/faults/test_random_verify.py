"""Random right files are made wrong by a random change whose effect is known: `verify`, alone and against the source,
must find it, may find it, or must not mind it; it never ends in a foreign error, hangs, or changes the file.

What must be found is what the documentation promises: the structure (sizes and number of levels, tables, copies), that
every segment decodes, and of a source the pixels, as other readers find them.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.campaign import Campaign
from faults.verify_files import Made
from faults.verify_tiff import TIFF_CHANGES
from faults.verify_zarr import ZARR_CHANGES

import slidewright
from slidewright.cli.main import main
from slidewright.errors import OptionError, SlidewrightError

SECONDS = 30  # that a verification may take
MUST, MAY, MUST_NOT = "must fail", "may fail", "must pass"


@pytest.mark.timeout(120)
def test_verify_finds_what_was_made_wrong(tmp_path: Path) -> None:
    Campaign("random verify", short=20, long=20).run(tmp_path, Trial, lambda trial: [trial.run()])


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_verify_finds_much_that_was_made_wrong(tmp_path: Path) -> None:
    Campaign("random verify", short=300, long=20_000).run(tmp_path, Trial, lambda trial: [trial.run()])


class Trial:
    """A random file, and one change."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self._made, self._chance = Made(folder, chance), chance
        self._change = "nothing"

    def __str__(self) -> str:
        return f"{self._made}: {self._change}"

    def run(self) -> str:
        """What became of it; AssertionError where that is not what must."""
        made = self._made
        try:
            made.write()
        except OptionError:
            return "options that do not fit"
        changes: dict[str, Callable[[Made], str | None]] = ZARR_CHANGES if made.is_zarr else TIFF_CHANGES
        self._change = self._chance.choice(sorted(changes)) if self._chance.random() < 0.95 else "nothing"
        before = digest(made.path)
        alone = MUST_NOT if self._change == "nothing" else changes[self._change](made)
        after = digest(made.path)
        if alone is None or (after == before and self._change != "nothing"):
            return "nothing to change"
        against = self._against(alone)
        if self._chance.random() < 0.3:
            found = self._command(), self._command("--against", *made.words())
        else:
            found = self._verify(), self._verify(against=made.opened())
        assert digest(made.path) == after, "verify changed the file"
        for wanted, error, which in zip((alone, against), found, ("verify", "verify --against"), strict=True):
            assert wanted != MUST or error is not None, f"{which} passed what is wrong"
            assert wanted != MUST_NOT or error is None, f"{which} refused what is right: {error}"
        first, second = ("found" if error else "passed" for error in found)
        return f"{alone}: {first}, {against} of a source: {second}"

    def _against(self, alone: str) -> str:
        """What must be found against the source: what must be without it, and pixels, as others read them."""
        if alone == MUST:
            return MUST
        try:
            right = self._made.is_as_it_should_be()
        except Exception:  # whatever others say of damage
            return MUST if "segment" in self._change or "a chunk" in self._change else MAY
        if right is None:
            return MAY
        if right and self._made.form == "kept" and "segment" in self._change:
            return MAY  # tiles that are kept are held against the source's byte for byte, and may look alike
        return MUST if not right else alone

    def _verify(self, **more: Any) -> object:
        """The error that verification ends in; those that are not ours go up."""
        if more:
            more |= {"resampling": self._made.options.get("resampling"), "min_psnr": self._made.least}
        with time_limit(SECONDS):
            try:
                slidewright.verify_file(self._made.path, n_workers=self._chance.choice((1, 1, 2)), **more)
            except SlidewrightError as error:
                return error
        return None


    def _command(self, *more: str) -> str | None:
        """What the command says where it fails."""
        out, err = io.StringIO(), io.StringIO()
        with time_limit(SECONDS), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["verify", str(self._made.path), "--workers", "1", *more])
        assert "--debug" not in err.getvalue(), f"a foreign error: {err.getvalue()}"
        assert (code == 0) == (": good; " in out.getvalue())
        return None if code == 0 else err.getvalue()


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """An error after so many seconds."""

    def end(*_: object) -> None:
        raise TimeoutError(f"it takes more than {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def digest(path: Path) -> str:
    """A hash of a file, or of all in a folder."""
    found = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        found.update(str(file).encode() + (file.read_bytes() if file.is_file() else b""))
    return found.hexdigest()
