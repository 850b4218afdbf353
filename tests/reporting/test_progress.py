"""Progress is a bar on a terminal, lines elsewhere, nothing when not wanted, and never the end of a run."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import pytest

from slidewright.report import Progress
from slidewright.reporting.progress import clock, describe, make_callback


def snapshot(done: int = 50, *, seconds: float = 10.0, stage: str = "encoding", retries: int = 0) -> Progress:
    return Progress(done, 200, done * 1_000_000, 200_000_000, done * 100_000, seconds, 2, retries, stage)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    def write(self, _: str) -> int:
        raise BrokenPipeError


def test_line_says_tiles_rates_and_time_left() -> None:
    assert describe(snapshot()) == "25% · 50/200 tiles · 5 Mpx/s · 0.5 MB/s · 0:30 left"


def test_line_says_stage_and_redone_blocks() -> None:
    assert describe(snapshot(0, stage="starting")) == "0% · 0/200 tiles · starting"
    assert describe(snapshot(200, stage="done", retries=2)).endswith("done in 0:10 · 2 blocks redone")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (754, "12:34"), (3723, "1:02:03")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_lines_come_every_few_seconds_and_at_the_end() -> None:
    stream = io.StringIO()
    with make_callback(True, stream) as callback:
        assert callback is not None
        for tenth in range(1, 130):
            callback(snapshot(tenth, seconds=tenth / 10))
        callback(snapshot(200, seconds=13, stage="done"))
    lines = stream.getvalue().splitlines()
    assert [line.split("%")[0] for line in lines] == ["25", "50", "100"]


def test_bar_is_drawn_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    with make_callback(True, stream) as callback:
        assert callback is not None
        callback(snapshot())
        callback(snapshot(200, stage="done"))
    text = stream.getvalue()
    assert "━" in text
    assert "50/200 tiles" in text
    assert "0:30 left" in text
    assert "200/200 tiles" in text


def test_nothing_is_shown_when_not_wanted() -> None:
    stream = io.StringIO()
    with make_callback(False, stream) as callback:
        assert callback is None
    assert stream.getvalue() == ""


def test_callable_is_passed_through() -> None:
    seen: list[Progress] = []
    with make_callback(seen.append) as callback:
        assert callback is not None
        callback(snapshot())
    assert seen == [snapshot()]


def test_closed_stream_does_not_end_the_run() -> None:
    with make_callback(True, Broken()) as callback:
        assert callback is not None
        callback(snapshot(seconds=99))
        callback(snapshot(seconds=199))


def test_signal_while_a_closed_terminal_is_drawn_on_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The terminal's end is a signal, here Ctrl-C, and from then on an error of each write: rich's last one as well."""

    from rich.console import Console

    class Closing(Terminal):
        ended = False

        def write(self, text: str) -> int:
            if self.ended:
                raise OSError(5, "Input/output error")
            return super().write(text)

    def interrupted(console: Console, *things: object, **options: Any) -> None:
        print_things(console, *things, **options)
        stream.ended = True
        raise KeyboardInterrupt

    monkeypatch.setenv("TERM", "xterm")
    print_things, stream = Console.print, Closing()
    with make_callback(True, stream) as show:
        assert show is not None
        monkeypatch.setattr(Console, "print", interrupted)
        with pytest.raises(KeyboardInterrupt):
            show(snapshot())
    assert stream.ended


def test_no_stream_at_all_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with make_callback(True) as callback:
        assert callback is None


def test_ascii_log_gets_ascii() -> None:
    raw = io.BytesIO()
    stream: Any = io.TextIOWrapper(raw, encoding="ascii")
    with make_callback(True, stream) as callback:
        assert callback is not None
        callback(snapshot(seconds=99))
    assert raw.getvalue().startswith(b"25%, 50/200 tiles, ")


def test_rich_is_imported_for_a_bar_only() -> None:
    code = "import slidewright.reporting.progress, sys; assert not {'rich', 'numpy'} & set(sys.modules), sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
