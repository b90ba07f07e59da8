"""Progress: a panel or a bar on a terminal, plain lines elsewhere, nothing where quiet is wanted, never on stdout."""

from __future__ import annotations

import io
import os
import re
import sys

import pytest
import typer
from typer.testing import CliRunner

from gebm_cli.cli import progress as module
from gebm_cli.cli.progress import Counter, Quiet, phases, progress, say


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """A plain environment, whatever that of the tests is."""
    for name, value in (("TERM", "xterm"), ("GEBM_QUIET", ""), ("RANK", "0"), ("COLUMNS", "100"), ("LINES", "30")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)


def on_terminal(monkeypatch):
    """stderr as a terminal; within a test, since pytest puts its own back after fixtures."""
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    return stream


def bare(stream):
    """What was written, without what moves the cursor or colours."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())


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
    assert [line.split("  ")[0] for line in lines] == [f"sample x: {n}/400 chain-steps" for n in (200, 300, 400)]
    assert "9 chain-steps/s  ETA 0:00:22  kale 1" in lines[0] and captured.out == ""


def test_a_counter_adds_up():
    """Increments become a running sum."""
    seen = []
    count = Counter(lambda done, total, figures: seen.append((done, total)), 10)
    count(3)
    count(4)
    assert seen == [(3, 10), (7, 10)]


def test_plain_lines_name_the_phase(capsys):
    """Title, phase and unit stand in each line, and the phase before is over."""
    with phases("two-sample-test") as begin:
        begin("features", "images", 2)(2)
        begin("relabellings", "blocks", 3)(3)
    assert capsys.readouterr().err.splitlines() == [
        "two-sample-test, features: 2/2 images",
        "two-sample-test, relabellings: 3/3 blocks",
    ]


def test_a_long_work_gets_a_panel_and_leaves_one_line(monkeypatch):
    """The panel shows the figures and goes; the cursor is shown after it was hidden; one line is left."""
    terminal = on_terminal(monkeypatch)
    with progress("train-base digits-001", panel=True) as report:
        report(0, 100, {})
        report(100, 100, {"kale": 0.25})
    shown, left = bare(terminal), terminal.getvalue()
    assert "╭" in shown and "100/100 steps 100 %" in shown and re.search(r"kale +▄ +0.25", shown)
    assert left.rfind("\x1b[?25h") > left.rfind("\x1b[?25l") > -1
    assert left[left.rfind("╯") :].count("\x1b[1A\x1b[2K") >= 5  # each line of the panel is erased
    assert re.fullmatch(r"train-base digits-001: 100 steps in 0:00:00, [\d,.]+ steps/s", shown.splitlines()[-1])


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_the_cursor_is_back_however_the_work_ends(monkeypatch, error):
    """Whatever is raised within comes out, after the cursor is shown and the last line says how far it came."""
    terminal = on_terminal(monkeypatch)
    with pytest.raises(error), phases("mala-001", panel=True) as begin:
        begin("chains", "chain-steps", 50)(20)
        raise error
    assert terminal.getvalue().rfind("\x1b[?25h") > terminal.getvalue().rfind("\x1b[?25l") > -1
    assert bare(terminal).splitlines()[-1].startswith("mala-001: chains 20/50 chain-steps")


def test_the_streams_are_the_same_after_a_panel_as_before(monkeypatch, capsys):
    """stdout is no terminal here and is not touched; a warning on stderr stands above the panel, in full."""
    terminal = on_terminal(monkeypatch)
    out = sys.stdout
    with progress("x", panel=True) as report:
        report(1, 2, {})
        assert sys.stdout is out
        print("the result")
        print("gebm: warning: as seen", file=sys.stderr)
    assert sys.stderr is terminal and capsys.readouterr().out == "the result\n"
    assert "gebm: warning: as seen\n" in bare(terminal).replace("\r", "")


def test_a_conclusion_ends_the_last_line(monkeypatch):
    """The verdict of the chains, when it comes."""
    terminal = on_terminal(monkeypatch)
    with phases("mala-001", panel=True) as begin:
        begin("chains", "chain-steps", 50)(50)
        begin.conclude("not mixed")
    assert bare(terminal).splitlines()[-1].endswith("; not mixed")


def test_a_work_that_was_refused_leaves_no_line(monkeypatch):
    """No report, no summary."""
    terminal = on_terminal(monkeypatch)
    with pytest.raises(ValueError), progress("train-base digits-001", panel=True):
        raise ValueError
    assert "0 steps" not in bare(terminal) and terminal.getvalue().endswith("\x1b[?25h")


def test_a_bar_is_over_when_the_next_phase_begins(monkeypatch):
    """Short works have a bar for each phase, one at a time: the cursor is back before the second hides it again."""
    terminal = on_terminal(monkeypatch)
    with phases("two-sample-test") as begin:
        begin("features", "images", 2)(2)
        begin("relabellings", "blocks", 3)(1)
        assert terminal.getvalue().count("\x1b[?25l") == 2 and terminal.getvalue().count("\x1b[?25h") == 1


@pytest.mark.parametrize("term", ["dumb", "unknown", "DUMB"])
@pytest.mark.parametrize("panel", [True, False])
def test_a_dumb_terminal_gets_plain_lines(monkeypatch, term, panel):
    """Nothing that moves a cursor is sent to what cannot move it."""
    terminal = on_terminal(monkeypatch)
    monkeypatch.setenv("TERM", term)
    with progress("x", panel=panel) as report:
        report(4, 4, {"kale": 1.0})
    assert terminal.getvalue() == "x: 4/4 steps  kale 1\n"


def test_without_colours_the_panel_has_none(monkeypatch):
    """NO_COLOR: the panel, but no sequence that sets a colour; without it there are some."""
    terminal = on_terminal(monkeypatch)
    coloured = r"\x1b\[[0-9;]*3[0-7]"
    for no_colour in ("", "1"):
        monkeypatch.setenv("NO_COLOR", no_colour)
        terminal.truncate(0)
        with progress("x", panel=True) as report:
            report(2, 4, {"kale": 1.0})
        assert "╭" in terminal.getvalue() and bool(re.search(coloured, terminal.getvalue())) is not bool(no_colour)


def test_where_blocks_cannot_be_written_there_is_a_bar(monkeypatch):
    """A terminal of Latin letters gets what rich draws in ASCII."""
    terminal = on_terminal(monkeypatch)
    terminal.encoding = "iso-8859-1"
    with progress("x", panel=True) as report:
        report(2, 4, {"kale": 1.0})
    bare(terminal).encode("iso-8859-1")
    assert "kale 1" in bare(terminal)


def test_names_are_no_markup_in_a_bar(monkeypatch):
    """A set called [red] is called so on the bar too."""
    terminal = on_terminal(monkeypatch)
    with progress("[red]mine[/red] [/]") as report:
        report(1, 2, {"[bold]": 1.0})
    assert "[red]mine[/red] [/]" in bare(terminal) and "[bold] 1" in bare(terminal)


@pytest.mark.parametrize("panel", [True, False])
@pytest.mark.parametrize("name,value", [("GEBM_QUIET", "1"), ("RANK", "1")])
def test_quiet_and_the_other_processes_show_nothing(monkeypatch, capsys, panel, name, value):
    """Not a character, on a terminal or not; warnings are others' business."""
    terminal = on_terminal(monkeypatch)
    monkeypatch.setenv(name, value)
    with progress("x", panel=panel) as report, phases("y", panel=panel) as begin:
        report(2, 4, {"kale": 1.0})
        begin("chains", "steps", 5)(5)
        begin.conclude("mixed")
        say("a run")
        assert sys.stderr is terminal
    assert terminal.getvalue() == "" and capsys.readouterr().out == ""


def small_app():
    """An app with the option where gebm has it: of all commands and of each."""
    app = typer.Typer()

    @app.callback()
    def options(quiet: Quiet = False) -> None:
        pass

    @app.command()
    def work(quiet: Quiet = False) -> None:
        print("quiet" if module.is_quiet() else "loud")

    @app.command()
    def fail(quiet: Quiet = False) -> None:
        raise ValueError("as it must")

    return app


@pytest.mark.parametrize("argv", [["-q", "work"], ["--quiet", "work"], ["work", "-q"], ["-q", "work", "--quiet"]])
def test_quiet_may_stand_before_the_command_or_after_it_and_is_forgotten(argv):
    """It holds for one command line, also one that fails, and not for the next in the same process."""
    runner, app = CliRunner(), small_app()
    assert runner.invoke(app, argv).output == "quiet\n"
    assert not os.environ.get("GEBM_QUIET")
    assert runner.invoke(app, [word.replace("work", "fail") for word in argv]).exit_code == 1
    assert runner.invoke(app, ["work"]).output == "loud\n"


def test_a_variable_makes_every_command_quiet(monkeypatch):
    """GEBM_QUIET=1 is the user's, and outlives a command with --quiet."""
    monkeypatch.setenv("GEBM_QUIET", "1")
    runner, app = CliRunner(), small_app()
    assert [runner.invoke(app, argv).output for argv in (["work"], ["work", "-q"], ["work"])] == ["quiet\n"] * 3
    assert os.environ["GEBM_QUIET"] == "1"


def test_plain_lines_set_an_error_beside_what_it_is_of(capsys):
    with progress("training") as report:
        report(1, 1, {"kale": 0.5, "kale_standard_error": 0.0123, "lone_standard_error": 1.0})
    assert "kale 0.5 +- 0.012  lone-standard-error 1" in capsys.readouterr().err
