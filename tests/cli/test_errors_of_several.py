"""Errors under torchrun, which ends all processes when one fails: one of them is heard, and none is aborted."""

from __future__ import annotations

import sys

import pytest

from gebm_cli.cli import app
from gebm_cli.errors import DivergedError, InterruptedRun

REFUSED = ("train-base", "digits", "train_base.lr=fast")


@pytest.fixture
def second(monkeypatch):
    """This process is the second of two; returns what it does with its patience: seconds waited, and how the wait ends."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    waited: list[float] = []

    def wait(ends_with: BaseException | None = None):
        def sleep(seconds: float) -> None:
            waited.append(seconds)
            if ends_with is not None:
                raise ends_with

        monkeypatch.setattr(app.time, "sleep", sleep)
        return waited

    return wait


def test_the_second_process_waits_to_be_ended_by_the_firsts_failure(gebm, second):
    """The signal of torchrun comes: it has nothing to add, and its exit code is that of its error."""
    waited = second(KeyboardInterrupt())
    result = gebm(*REFUSED)
    assert (result.code, result.out, result.err, waited) == (2, "", "", [app.PATIENCE_S])


def test_a_process_that_failed_alone_speaks_for_itself(gebm, second):
    """Nobody ended it, so the first does not know."""
    waited = second()
    result = gebm(*REFUSED)
    assert result.code == 2 and len(waited) == 1 and "got 'fast', expected a number" in result.err


def test_the_first_process_speaks_at_once(gebm, second, monkeypatch):
    """And so does one process alone."""
    waited = second()
    for rank in ("0", None):
        monkeypatch.setenv("RANK", rank) if rank else monkeypatch.delenv("RANK")
        assert "got 'fast', expected a number" in gebm(*REFUSED).err and not waited


@pytest.mark.parametrize(
    ("error", "waits", "says"),
    [
        (InterruptedRun("stopped"), 0, ""),
        (DivergedError("nan"), 1, "nan"),
        (RuntimeError("peer"), 1, "peer"),
        (SystemExit(2), 1, ""),
    ],
)
def test_a_stop_asked_for_is_not_waited_with(gebm, second, monkeypatch, error, waits, says):
    """All have been told to stop; after another error, or where the first told it, the first is waited for."""
    waited = second()

    def fails(*argv, **keys):
        raise error

    monkeypatch.setattr(app, "app", fails)
    result = gebm("anything")
    assert (
        result.code == getattr(error, "exit_code", 1 if isinstance(error, RuntimeError) else 2)
        and len(waited) == waits
        and says in result.err
    )


@pytest.mark.parametrize(("size", "left"), [("2", "at once"), ("1", "as usual")])
def test_a_failed_process_of_several_leaves_without_destructors(monkeypatch, size, left):
    """Threads of an open group would abort it; one process alone ends as any program does."""
    monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.setitem(sys.modules, "torch.distributed", sys)

    monkeypatch.setattr(app, "run", lambda argv: 2)
    ended: list[int] = []
    monkeypatch.setattr(app.os, "_exit", ended.append)
    with pytest.raises(SystemExit) as caught:
        app.main([])
    assert caught.value.code == 2 and ended == ([2] if left == "at once" else [])
    monkeypatch.setattr(app, "run", lambda argv: 0)
    with pytest.raises(SystemExit):
        app.main([])
    assert ended == ([2] if left == "at once" else []), "a process that is done has left the group already"
