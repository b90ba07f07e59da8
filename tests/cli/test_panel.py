"""The live panel: what it shows at any size of terminal, what it keeps, what it costs, and what it leaves behind."""

from __future__ import annotations

import fcntl
import io
import math
import os
import pty
import random
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from types import SimpleNamespace

import pytest
from rich.cells import cell_len
from rich.console import Console

from gebm_cli.cli import measures
from gebm_cli.cli.measures import History, Pace, direction, memory
from gebm_cli.cli.panel import Board
from gebm_cli.cli.sparkline import BLOCKS

SPARK = f"[{BLOCKS}]"


class Clock:
    """A clock that goes on when told."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def training(clock, steps=2000, title="train-base digits-001"):
    """A board after a training of 25 steps/s that was resumed at step 100, and has KID rise and fall."""
    board = Board(title, now=clock, memory=lambda: ["memory 512 MB", "GPU at most 1.2 GB"])
    clock.now += 5  # preparing
    board.begin("", "steps")
    board.report(100, 4000, {})
    for step in range(150, steps + 1, 50):
        clock.now += 2
        board.report(step, 4000, {"kale": 9.0 - step / 1000, "log_partition": 0.5, "lr": 5e-4})
        if step in (500, 1000, 1500):
            score = {500: 0.3, 1000: 0.125, 1500: 0.2}[step]
            board.report(step, 4000, {"watched_kid": score, "watched_kid_standard_error": 0.01})
    return board


def drawn(board, width=80, height=24):
    """The lines that rich draws on a terminal of that size."""
    stream = io.StringIO()
    Console(file=stream, width=width, height=height, force_terminal=True, color_system=None).print(board)
    return stream.getvalue().splitlines()


def row(lines, name):
    """The line of a figure, without the frame."""
    return next(line.strip("│ ") for line in lines if line.strip("│ ").startswith(name))


def test_all_is_there_on_80_by_24():
    """Title, bar, both speeds, ETA, elapsed, memory; a sparkline and the newest value of each figure, the best of the score."""
    clock = Clock()
    lines = drawn(training(clock))
    text = "\n".join(lines)
    for part in (
        "train-base digits-001",
        "2,000/4,000 steps 50 %",
        "25 steps/s (25 overall)",
        "ETA 0:01:20",
        "elapsed 0:01:16",
        "memory 512 MB",
        "GPU at most 1.2 GB",
    ):
        assert part in text, (part, text)
    assert re.fullmatch(r"watched-kid +█▁[▁-▅] +0\.2 ± 0\.01  best 0\.125 at 1000", row(lines, "watched-kid"))
    assert re.fullmatch(rf"kale +{SPARK}+ +7", row(lines, "kale"))
    falling = re.search(rf"{SPARK}+", row(lines, "kale"))[0]
    assert [*falling] == sorted(falling, reverse=True) and falling[0] == "█" and falling[-1] == "▁"
    assert "watched-kid-st" not in text


def test_the_bar_is_as_long_as_what_is_done():
    """Half of it is full at half of the steps, all of it at the end."""
    clock = Clock()
    board = training(clock)
    bar = row(drawn(board), "━")
    assert abs(bar.count("━") - bar.count("─")) <= 1
    board.report(4000, 4000, {})
    assert row(drawn(board), "━").count("─") == 0


@pytest.mark.parametrize(
    "width,height", [(200, 60), (80, 24), (60, 24), (40, 15), (24, 9), (80, 7), (80, 5), (12, 3), (5, 2)]
)
@pytest.mark.parametrize("n_figures", [0, 1, 40])
def test_it_is_never_larger_than_the_terminal(width, height, n_figures):
    """At any size, with no figure or with forty, before the first report and long after it, one line is left for the cursor."""
    clock = Clock()
    board = Board("a title that is longer than many a terminal is wide " * 3, now=clock, memory=lambda: ["memory 1 GB"])
    for _ in range(3):
        lines = drawn(board, width, height)
        assert len(lines) <= height - 1 and max(map(cell_len, lines)) <= max(width - 2, 1), lines
        board.begin("drawing the chains", "chain-steps")
        clock.now += 30
        board.report(0, 10**9, {})
        clock.now += 30
        board.report(10**8, 10**9, {f"a_figure_with_a_long_name_{i}": 1e-3 * i for i in range(n_figures)})


def test_figures_without_a_place_are_named():
    """Scores come first and the learning rate last, and the last line says how many are not shown."""
    clock = Clock()
    board = Board("x", now=clock, memory=list)
    board.begin("", "steps")
    board.report(0, 10, {})
    clock.now += 1
    board.report(1, 10, {"lr": 1.0, **{f"figure_{i}": 1.0 for i in range(9)}, "watched_nll": 2.0})
    names = [line.strip("│ ").split()[0] for line in drawn(board, 80, 12)][3:-1]
    assert names == ["watched-nll", *[f"figure-{i}" for i in range(5)], "and"]
    assert "and 5 more: figure-5, figure-6, figure-7, figure-8, lr" in "\n".join(drawn(board, 80, 12))


def test_names_cannot_move_the_cursor_or_colour_the_panel():
    """Control characters become blanks, and square brackets are no markup."""
    clock = Clock()
    lines = drawn(training(clock, title="[red]runs\x1b[2J\nx[/red]"))
    assert "[red]runs [2J x[/red]" in lines[0] and "\x1b" not in "".join(lines)


def test_a_best_value_is_named_only_where_there_is_one():
    """KID, FID, NLL and a loss of one network: smaller; the watched KALE: larger; the values of a game: neither."""
    small = ("watched_kid", "watched_nll", "nll", "nll_held_out", "fid", "loss")
    assert [direction(name) for name in small] == [-1] * len(small)
    assert direction("watched_kale") == 1
    assert [direction(n) for n in ("kale", "kale_train", "gan", "base_loss", "penalty", "lr", "skid_mark_width")] == [
        0
    ] * 7


def test_the_best_is_the_largest_or_the_smallest_and_no_nan():
    """By brute force over random values, some of them nan."""
    rng = random.Random(0)
    values = [rng.choice([rng.gauss(0, 1), math.nan]) for _ in range(200)]
    board = Board("x")
    board.begin("", "steps")
    for step, value in enumerate(values):
        board.report(step, 200, {"watched_kale": value, "watched_kid": value})
    finite = [v for v in values if not math.isnan(v)]
    for name, best in (("watched_kale", max(finite)), ("watched_kid", min(finite))):
        figure = board._figures[name]
        assert figure.best == best and figure.best_step == values.index(best)


@pytest.mark.parametrize("n", [1, 239, 240, 241, 1000, 54321])
def test_a_history_is_bounded_and_keeps_its_extremes(n):
    """At most 2 x width points, in time's order, with the least, the greatest and the newest value wherever they stand."""
    rng = random.Random(n)
    values = [rng.gauss(0, 1) for _ in range(n)]
    low, high = rng.randrange(n), rng.randrange(n)
    values[low], values[high] = -100.0, 100.0
    history = History(120)
    for value in values:
        history.add(value)
    kept = history.values()
    assert len(kept) <= 2 * 120 + 2 and len(kept) >= min(n, 118)
    assert min(kept) == min(values) and max(kept) == max(values) and history.newest == values[-1]
    places = iter(values)
    assert n > 5000 or all(
        v in places for v in dict.fromkeys(kept)
    )  # a subsequence: each is found after the one before


def test_a_history_spaces_its_points_evenly():
    """A ramp stays one: at any time the i-th of m points is within three points of i/m, however often it was thinned."""
    history = History(50)
    for n in range(1, 10_001):
        history.add(float(n))
        if n % 97 == 0:
            kept = history.values()
            assert all(abs(v / n - i / len(kept)) < 3.1 / len(kept) for i, v in enumerate(kept)), n


def test_values_that_are_no_numbers_are_gaps():
    """A stretch of nan stays a gap when it is thinned, and hides no number beside it."""
    history = History(20)
    for i in range(400):
        history.add(math.nan if 100 <= i < 300 or i % 2 == 0 else 1.0)
    kept = history.values()
    n_gap = sum(map(math.isnan, kept))
    assert 0.3 * len(kept) < n_gap < 0.7 * len(kept) and {v for v in kept if v == v} == {1.0}


def test_recent_speed_forgets_and_overall_speed_does_not():
    """100 s at 10/s, then 60 s at 1/s: of late 1/s, overall 1060/160; the ETA goes by the speed of late and runs down."""
    pace = Pace(0.0)
    pace.tell(500, 10_000, 50.0)  # what came before is preparing
    done, now = 500, 50.0
    for rate, seconds in ((10, 100), (1, 60)):
        for _ in range(seconds):
            now, done = now + 1.0, done + rate
            pace.tell(done, 10_000, now)
    assert pace.recent == pytest.approx(1 + 9 * math.exp(-60 / measures.RECENT_S), rel=1e-3)
    assert pace.overall(now) == pytest.approx(1060 / 160)
    left = (10_000 - done) / pace.recent
    assert pace.left(now) == pytest.approx(left) and pace.left(now + 7) == pytest.approx(left - 7)
    assert pace.left(now + 1e6) == 0.0


def test_many_reports_in_a_moment_are_one_measurement():
    """A thousand increments within a second, 1/1000 s apart, give 1000/s."""
    pace = Pace(0.0)
    for i in range(2001):
        pace.tell(i, 5000, i / 1000)
    assert pace.recent == pytest.approx(1000, rel=0.01)


def test_memory_is_that_of_the_process_and_of_cuda_only_where_it_is_in_use(monkeypatch):
    """Resident memory grows with what is held; CUDA is asked for its peak on all devices, and not even touched before its start."""
    held = measures._resident()
    block = bytearray(os.urandom(1)) * 60_000_000
    assert 50e6 < measures._resident() - held < 200e6 and len(block)

    def fail(device):
        raise AssertionError("CUDA is not in use")

    cuda = SimpleNamespace(is_initialized=lambda: False, device_count=lambda: 2, max_memory_allocated=fail)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert len(memory()) == 1 and re.fullmatch(r"memory [\d.]+ (MB|GB)", memory()[0])
    cuda.is_initialized, cuda.max_memory_allocated = lambda: True, lambda device: 10**9 * (device + 1)
    assert memory()[1] == "GPU at most 3 GB"


def test_memory_is_asked_for_once_a_second():
    """However often the panel is drawn."""
    clock, asked = Clock(), []
    board = Board("x", now=clock, memory=lambda: asked.append(clock.now) or ["memory 1 MB"])
    for _ in range(40):
        drawn(board)
        clock.now += 0.25
    assert 9 <= len(asked) <= 11


def test_the_last_line_tells_each_phase_and_what_came_of_it():
    """Phases with their counts and times; one that was stopped shows how far it came."""
    clock = Clock()
    board = Board("mala-001", now=clock)
    assert board.summary() == ""
    board.begin("tuning", "pilot steps")
    board.report(0, 200, {})
    clock.now += 10
    board.report(200, 200, {})
    board.begin("chains", "chain-steps")
    board.report(0, 10_000, {})
    clock.now += 2
    board.report(9000, 10_000, {})
    board.conclude("refined, not mixed")
    assert board.summary() == (
        "mala-001: tuning 200 pilot steps in 0:00:10, 20 pilot steps/s, "
        "chains 9,000/10,000 chain-steps in 0:00:02, 4,500 chain-steps/s; refined, not mixed"
    )
    assert "before: tuning 200 pilot steps" in "\n".join(drawn(board))


def test_a_report_costs_little():
    """Seven figures a report: under 50 microseconds of this process's time in the best of several rounds."""
    board = Board("x")
    board.begin("", "steps")
    figures = dict.fromkeys(
        ("kale", "penalty", "base_loss", "lr", "nll", "watched_kid", "watched_kid_standard_error"), 1.5
    )
    rounds = []
    for start in range(0, 10_000, 2000):
        before = time.process_time()
        for step in range(start, start + 2000):
            board.report(step, 10_000, figures)
        rounds.append((time.process_time() - before) / 2000)
    assert min(rounds) < 50e-6


# -------------------------------------------------------------------------------------------------- on a real terminal

KEYS = (
    "steps=1000000",
    "log_every=20",
    "batch_size=8",
    "critic_steps=1",
    "burst_critic_steps=1",
    "lr_schedule=constant",
)
TINY = [*(f"train_base.{key}" for key in KEYS), "train_energy.batch_size=8", "data.n=200", "--seed=0"]


def read_until(leader, wanted, seconds):
    """What the terminal was sent, until a pattern is in it, the end comes or time is up."""
    seen, end = b"", time.monotonic() + seconds
    while time.monotonic() < end and not re.search(wanted, seen):
        if select.select([leader], [], [], 0.2)[0]:
            try:
                seen += os.read(leader, 65536)
            except OSError:  # the other side is closed
                break
    return seen


def test_ctrl_c_on_a_terminal_leaves_one_line_and_the_cursor(tmp_path):
    """A real training in a pseudo-terminal of 80 x 24: the panel comes, Ctrl-C ends it with 130, and what is left is tidy."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    ignored = ("COLUMNS", "LINES", "NO_COLOR", "RANK", "GEBM_QUIET")
    environment = {k: v for k, v in os.environ.items() if k not in ignored}
    environment |= {"TERM": "xterm-256color", "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    with open(tmp_path / "out", "wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "gebm_cli", "train-base", "ring", *TINY, "--runs-dir", str(tmp_path / "runs")],
            stdin=follower,
            stdout=out,
            stderr=follower,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
    os.close(follower)
    try:
        seen = read_until(leader, b"log-partition", 60)
        os.write(leader, b"\x03")
        seen += read_until(leader, b"(?!)", 30)
        assert process.wait(30) == 130
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
        os.close(leader)
    assert seen.rfind(b"\x1b[?25h") > seen.rfind(b"\x1b[?25l") > 0  # hidden, and shown again at the end
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode()))
    frame = [line for line in lines if line.startswith(("│", "╭", "╰"))]
    assert max(map(cell_len, frame)) <= 80  # also with the `^C` that the terminal echoes
    assert any(re.match(r"│ [━─]+ [\d,]+/1,000,000 steps 0 % │", line) for line in lines)
    last = [line for line in lines if line.strip()][-2:]
    assert re.fullmatch(r"train-base ring-001: [\d,]+/1,000,000 steps in 0:\d\d:\d\d, [\d.,]+ steps/s", last[0])
    assert "interrupted at step" in "".join(last)
    assert (tmp_path / "out").read_bytes() == b""
