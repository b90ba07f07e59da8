"""The errors a user can meet, each with the exit code it ends a command with. Imports nothing, so every layer may use it."""

from __future__ import annotations


class GebmError(Exception):
    """A failure while running: one sentence for the user, no traceback (exit code 1)."""

    exit_code = 1


class UsageError(GebmError):
    """What was typed or configured cannot be done; nothing has been written (exit code 2)."""

    exit_code = 2


class DivergedError(GebmError):
    """The loss stopped being finite; the last good checkpoint is kept (exit code 3)."""

    exit_code = 3


class InterruptedRun(GebmError):
    """The user or the system asked to stop, and the state was saved first (exit code 130)."""

    exit_code = 130
