"""The `gebm` command: its sub-commands, and the one place where an error becomes a sentence and an exit code."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
import traceback
from typing import Annotated

# A waiting thread should spin briefly, then sleep. Spinning long (the default) makes small networks 20 to 50 times slower
# when another process wants a core; sleeping at once (OMP_WAIT_POLICY=PASSIVE) makes two threads slower than one. Read by
# the OpenMP runtime when torch is first imported, so it is set before any command runs.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import typer

from gebm_cli import __version__
from gebm_cli.cli import (
    compare,
    divergence,
    doctor,
    evaluate,
    flow,
    new,
    report,
    runs,
    sample,
    show,
    train,
    two_sample_test,
    validate,
    verdict,
)
from gebm_cli.cli.completion import no_space_after_open_words
from gebm_cli.cli.progress import Quiet
from gebm_cli.errors import GebmError, InterruptedRun
from gebm_cli.experiment.writing import visible

PATIENCE_S = 15.0  # of a failed process with the first one: as long as that may take to come as far

app = typer.Typer(
    name="gebm",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="""Generalized energy-based models: a base X = B(z), reweighted by exp(-E).

    [bold]train-base[/] and [bold]train-energy[/] learn the two parts, [bold]sample[/] draws from
    pi(z) ~ eta(z) exp(-beta E(B(z))) and pushes it through B, and [bold]evaluate-fid[/], [bold]evaluate-kid[/],
    [bold]two-sample-test[/] and [bold]verdict[/] say whether the samples are closer to the data, and how sure that is;
    [bold]divergence[/] says how far two sets are apart, and [bold]flow[/] moves particles to the data.
    [bold]report[/] draws a run as one page, [bold]compare[/] sets runs side by side, and [bold]runs[/] lists them;
    [bold]new[/] starts an experiment file, and [bold]show[/] tells what it resolves to.""",
    epilog="Exit codes: 0 done, 1 failed while running, 2 usage or configuration, 3 diverged, 130 interrupted after saving.",
)
for module in (
    train,
    doctor,
    sample,
    evaluate,
    two_sample_test,
    divergence,
    flow,
    verdict,
    report,
    compare,
    new,
    show,
    validate,
    runs,
):
    module.register(app)
no_space_after_open_words()


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"gebm {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    quiet: Quiet = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if debug:
        os.environ["GEBM_DEBUG"] = "1"


def main(argv: list[str] | None = None) -> None:
    """Run a command; every error ends in one sentence on stderr and the exit code of its kind."""
    try:
        code = run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:  # a second signal, while the first one's error was told
        code = InterruptedRun.exit_code
    if code and _several() and "torch.distributed" in sys.modules:
        # The group's threads are still at work, and the destructors of a normal exit would abort the process.
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(argv: list[str]) -> int:
    """The exit code of a command line."""
    os.environ.pop("GEBM_DEBUG", None)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal's encoding lacks is no defect
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, _interrupt)  # so that what a command has half made is removed
    try:
        app(argv, prog_name="gebm", standalone_mode=True)
    except SystemExit as stop:
        if stop.code == 130 and _first():
            print("gebm: interrupted; nothing half-made is left", file=sys.stderr)
        if not stop.code:
            _leave_world()
        elif stop.code != 130:
            _let_the_first_speak()
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except Exception as error:
        if os.environ.get("GEBM_DEBUG"):
            traceback.print_exc()
        message, code = _explain(error)
        if isinstance(error, InterruptedRun) and not _first():
            return code
        # Of all processes of torchrun one speaks, and a peer that is gone is no error of this one.
        if _let_the_first_speak():
            return code
        print(f"gebm: {message}", file=sys.stderr)
        return code
    return 0


def _first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _several() -> bool:
    return os.environ.get("WORLD_SIZE", "1") != "1"


def _let_the_first_speak() -> bool:
    """Under torchrun: True where the first process failed as well, so that its word is enough.

    torchrun ends all processes when one fails, so a process that fails sooner than the first would take its word away. It waits
    to be ended with the others; where that does not come, it failed alone, and speaks for itself.
    """
    if _first():
        return False
    try:
        time.sleep(PATIENCE_S)
    except KeyboardInterrupt:
        return True
    return False


def _leave_world() -> None:
    """Under torchrun: a process that ends with its group still open may be aborted by the group's threads, and so may one whose
    peers have gone before it, so all leave together."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _explain(error: Exception) -> tuple[str, int]:
    if isinstance(error, GebmError):
        return "\n      ".join(map(visible, str(error).splitlines())), error.exit_code
    if isinstance(error, OSError):
        return f"{visible(str(error.filename or 'a file'))}: {error.strerror or error}", 1
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "allocate memory" in str(error):
        return "out of memory; use a smaller batch_size (or sample.block_size), or --device cpu", 1
    return f"{type(error).__name__}: {error} (this is a defect of gebm; `gebm --debug COMMAND ...` shows where)", 1
