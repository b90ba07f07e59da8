"""Progress: a live bar on a terminal, plain lines elsewhere, never on stdout."""

from __future__ import annotations

import io
import re

from gebm_cli.cli import progress as module
from gebm_cli.cli.progress import Counter, progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_with_figures_speed_and_eta(monkeypatch, capsys):
    """Title, count, figures, steps/s and ETA are all there, from the first report on, also when resumed at step 50."""
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("COLUMNS", "200")
    with progress("train-base digits-001") as report:
        report(50, 100, {})
        report(75, 100, {"kale": 0.123456, "log_partition": 0.5})
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    for part in ("train-base digits-001", "75/100", "kale 0.1235", "log-partition 0.5", "steps/s", "ETA 0:00:0"):
        assert part in shown, (part, shown)
    assert capsys.readouterr().out == ""


def test_elsewhere_there_are_plain_lines_not_too_many(monkeypatch, capsys):
    """A line at most every ten seconds and one at the end, with speed measured from where the session began."""
    clock = iter([0.0, *[float(t) for t in range(1, 31)]])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with progress("sample x", "chain-steps") as report:
        for done in range(1, 31):
            report(done * 10 + 100, 400, {"kale": 1.0})
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["sample x: 200/400", "sample x: 300/400", "sample x: 400/400"]
    assert "9 chain-steps/s  ETA 0:00:22  kale 1" in lines[0] and captured.out == ""


def test_a_counter_adds_up():
    """Increments become a running sum."""
    seen = []
    count = Counter(lambda done, total, figures: seen.append((done, total)), 10)
    count(3)
    count(4)
    assert seen == [(3, 10), (7, 10)]
