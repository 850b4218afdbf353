"""A fuzzer: each input is tried in a fork of a warm process, with limits of CPU time, wall time and address space.

Inputs that reach lines of ours that none before had reached are kept and changed further (with CPython 3.12 or newer,
whose `sys.monitoring` costs next to nothing; with 3.11 only the seeds are changed). What an input may do is in
`fuzz_targets.py`. As a program it runs for some seconds and prints figures:

    python tests/faults/fuzzer.py tiff --seconds 3600 --seed 7 --keep FOLDER
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType

CPU_SECONDS, WALL_SECONDS = 8, 90
ADDRESS_SPACE = 2 << 30  # beyond what the warm process has
MOMENT = 1_700_000_000 * 10**9  # when all files of an input were written, as some hold the time of others
WATCHED = f"{os.sep}slidewright{os.sep}", f"{os.sep}tifffile{os.sep}"

Input = dict[str, bytes]
"""The files of one try, by their path in its folder."""
Lines = set[tuple[str, int]]


class Seen:
    """The lines that were reached so far."""

    def __init__(self) -> None:
        self.lines: Lines = set()
        self._monitoring = getattr(sys, "monitoring", None)  # new in 3.12
        if self._monitoring is not None:
            tool, events = 4, self._monitoring.events
            self._monitoring.use_tool_id(tool, "fuzzer")
            self._monitoring.register_callback(tool, events.LINE, self._line)
            self._monitoring.set_events(tool, events.LINE)

    def _line(self, code: CodeType, number: int) -> object:
        if any(part in code.co_filename for part in WATCHED):
            self.lines.add((code.co_filename, number))
        assert self._monitoring is not None
        return self._monitoring.DISABLE


class Target:
    """What is fuzzed: its seeds, how one is changed, and what is done with it (in a fork, in a folder of its own).

    `act` raises AssertionError for an answer that is wrong; a SlidewrightError that escapes is as it should be.
    """

    name: str

    def seeds(self, folder: Path) -> list[Input]:
        """Inputs that are in order; called in a fork."""
        raise NotImplementedError

    def change(self, files: Input, others: list[Input], rng: random.Random) -> Input:
        """A damaged copy."""
        raise NotImplementedError

    def acts(self) -> list[Callable[[], str]]:
        """What is done with the files, one after the other; each answers how it ended."""
        raise NotImplementedError

    def leaves(self, files: Input) -> set[str]:
        """Names that may lie in the folder afterwards, beside those of the input."""
        return {"o.tif", "o.ome.zarr"}


def where_of(error: BaseException) -> str:
    """The innermost place in our code that an error came through."""
    places = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if f"{os.sep}slidewright{os.sep}" in frame.filename
    ]
    return f"{places[-1].filename.partition('slidewright/')[2]}:{places[-1].lineno}" if places else "outside"


def try_acts(target: Target, files: Input) -> dict[str, object]:
    """Do it all, in this process; what happened."""
    from slidewright.errors import SlidewrightError

    ended, faults = [], []
    for act in target.acts():
        try:
            ended.append(act())
        except SlidewrightError as error:
            ended.append("refused")
            if len(str(error).splitlines()) != 1:
                faults.append((f"error of several lines at {where_of(error)}", str(error)))
        except BaseException as error:
            faults.append((f"{type(error).__name__} at {where_of(error)}", traceback.format_exc()))
    left = set(os.listdir()) - {name.split("/")[0] for name in files} - target.leaves(files)
    if left:
        faults.append(("left behind", str(sorted(left))))
    return {"ended": ended, "faults": faults}


class Fuzzer:
    """The warm process that forks."""

    def __init__(self, target: Target, seed: int, work: Path, keep: Path | None) -> None:
        self._target, self._work, self._keep = target, work, keep
        self._rng = random.Random(f"{target.name} {seed}")
        self.counts: dict[str, int] = {}
        self.failures: dict[str, str] = {}
        self.tried = 0
        self._seen = Seen()
        warm_up()
        self._corpus: list[Input] = self._make_seeds()
        self.seeds = tuple(self._corpus)
        for files in self.seeds:
            self.one_try(files, "a seed, unchanged")
        gc.freeze()

    def _make_seeds(self) -> list[Input]:
        """In a fork, so that no thread is started in this process."""
        folder = self._work / "seeds"
        folder.mkdir()
        pid = os.fork()
        if not pid:
            code = 1
            try:
                making = self._work / "try"  # where they are tried, too: some hold their own path
                for number, files in enumerate(self._target.seeds(making)):
                    write_files(folder / f"{number:03d}", files)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0, "the seeds could not be made"
        return [read_files(path) for path in sorted(folder.iterdir())]

    @property
    def kept(self) -> int:
        """Seeds, and inputs that reached something new."""
        return len(self._corpus)

    def run(
        self, *, seconds: float = float("inf"), tries: float = float("inf"), inputs: Sequence[Input] = ()
    ) -> None:
        """Until the time is over, or so many were tried, or all of those given."""
        begin = told = time.monotonic()
        given = iter(inputs)
        while self.tried < tries and time.monotonic() - begin < seconds:
            whole, recent = self._rng.random() < 0.4, self._rng.random() < 0.3
            chosen = self._rng.choice(self.seeds if whole else self._corpus[-40:] if recent else self._corpus)
            try:
                files = next(given, {}) if inputs else self._target.change(chosen, self._corpus, self._rng)
            except Exception:  # of the fuzzer: no reason to end an hour of trials, but one to be told of
                traceback.print_exc(file=sys.stdout)
                self.counts["not changed"] = self.counts.get("not changed", 0) + 1
                continue
            if not files:
                break
            if self.one_try(files, f"number {self.tried}"):
                self._corpus.append(files)
            if time.monotonic() - told > 60:
                told = time.monotonic()
                print(f"{told - begin:.0f} s: {self.report()}", flush=True)

    def one_try(self, files: Input, story: str) -> bool:
        """Try one input; whether it reached lines that none had reached."""
        folder = self._work / "try"
        shutil.rmtree(folder, ignore_errors=True)
        write_files(folder, files)
        answer = self._in_fork(folder, files)
        self.tried += 1
        for ended in answer.get("ended", ()):
            self.counts[ended] = self.counts.get(ended, 0) + 1
        for signature, text in answer["faults"]:
            if signature not in self.failures:
                self.failures[signature] = f"{story}: {text}"
                print(f"FAULT {signature} ({story})\n{text}", flush=True)
                if self._keep is not None:
                    write_files(self._keep / f"{self._target.name}-{len(self.failures):02d}", files)
            self.counts[f"fault: {signature}"] = self.counts.get(f"fault: {signature}", 0) + 1
        for name in answer.get("imported", ()):  # so that the next fork has it already
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        fresh = {(name, number) for name, number in answer.get("new", ())}
        self._seen.lines |= fresh
        return bool(fresh)

    def report(self) -> str:
        """Figures on one line."""
        counts = ", ".join(f"{count} {what}" for what, count in sorted(self.counts.items()))
        lines = sum("/slidewright/" in name for name, _ in self._seen.lines)
        return f"{self.tried} inputs: {counts}; {self.kept} kept, {lines} lines of ours reached"

    def _in_fork(self, folder: Path, files: Input) -> dict:
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                os.close(reading)
                self._be_child(folder, files, writing)
            finally:
                os._exit(9)
        os.close(writing)
        answer, deadline = b"", time.monotonic() + WALL_SECONDS
        while select.select([reading], [], [], max(0.0, deadline - time.monotonic()))[0]:
            piece = os.read(reading, 1 << 20)
            if not piece:
                break
            answer += piece
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        os.close(reading)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if answer.endswith(b"\n"):
            return json.loads(answer)
        died = "CPU time over" if status == -signal.SIGXCPU else f"ended with {status}"
        where = (folder.parent / "stderr").read_text(errors="replace")
        line = next((text.strip() for text in where.splitlines() if "/slidewright/" in text), "nowhere")
        return {"faults": [(f"{died} in {line}", where)]}

    def _be_child(self, folder: Path, files: Input, writing: int) -> None:
        import faulthandler

        os.setpgid(0, 0)
        errors = os.open(folder.parent / "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(errors, 2)
        os.dup2(errors, 1)
        faulthandler.enable()
        faulthandler.register(signal.SIGXCPU, chain=True)
        has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (has + ADDRESS_SPACE, has + ADDRESS_SPACE))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 2))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(folder)
        known, modules = set(self._seen.lines), set(sys.modules)
        answer = try_acts(self._target, files)
        answer["new"] = sorted(self._seen.lines - known)
        answer["imported"] = sorted(set(sys.modules) - modules)
        data = json.dumps(answer).encode("utf-8", "replace") + b"\n"
        while data:
            data = data[os.write(writing, data) :]
        os._exit(0)


def warm_up() -> None:
    """Import what a conversion needs, so that a fork has it."""
    import logging
    import warnings

    import cv2
    import imagecodecs  # noqa: F401
    import numcodecs  # noqa: F401
    import tifffile  # noqa: F401
    import zarr  # noqa: F401

    import slidewright.conversions.archive
    import slidewright.conversions.assemble
    import slidewright.conversions.batch
    import slidewright.engine.inline
    import slidewright.formats.registry
    import slidewright.inspection.verify
    import slidewright.sources.ndpi
    import slidewright.sources.open
    import slidewright.sources.tiff
    import slidewright.sources.zarr

    with contextlib.suppress(ImportError):
        import pydicom  # noqa: F401

        import slidewright.sources.dicom  # noqa: F401

    logging.disable()
    warnings.simplefilter("ignore")
    cv2.setNumThreads(1)


def write_files(folder: Path, files: Input) -> None:
    """An input as files."""
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        os.utime(folder / name, ns=(MOMENT, MOMENT))


def read_files(folder: Path) -> Input:
    """All files of a folder, as an input."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def main() -> None:
    """Run a campaign, or what is kept of one again (`--again FOLDER`)."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from faults import fuzz_targets

    parser = argparse.ArgumentParser()
    parser.add_argument("target", choices=sorted(fuzz_targets.TARGETS))
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a folder for inputs that found something")
    parser.add_argument("--tries", type=float, default=float("inf"))
    parser.add_argument("--again", type=Path, help="try only the inputs in this folder")
    parser.add_argument("--all", action="store_true", help="the variants of the target tags, in random order")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="slidewright-fuzz-") as work:
        fuzzer = Fuzzer(fuzz_targets.TARGETS[options.target](), options.seed, Path(work), options.keep)
        if options.again is not None:
            for path in sorted(options.again.glob(f"{options.target}-*")):
                fuzzer.one_try(read_files(path), path.name)
        elif options.all:
            inputs = [{"s.tif": data} for files in fuzzer.seeds for data in fuzz_targets.Tags.variants(files["s.tif"])]
            random.Random(options.seed).shuffle(inputs)
            print(f"{len(inputs)} variants", flush=True)
            fuzzer.run(seconds=options.seconds, inputs=inputs)
        else:
            fuzzer.run(seconds=options.seconds, tries=options.tries)
        print(f"{options.target}, seed {options.seed}: {fuzzer.report()}")
        sys.exit(bool(fuzzer.failures))


if __name__ == "__main__":
    main()
