"""Ending when asked to: a SIGTERM, as clusters send before they take a machine away, ends a run behind its step.

No TensorFlow here: the command line imports it.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

PREEMPTED = 75
"""Exit code of a run that was asked to end and can go on: EX_TEMPFAIL, "try again"."""


class Preempted(Exception):  # noqa: N818 (nothing went wrong)
    """A run ended because it was asked to, with all that it needs to go on saved."""

    exit_code = PREEMPTED

    def __init__(self, step: int, output: str):
        super().__init__(f"{output}: ended after step {step:,}, as asked (SIGTERM); the same command continues the run")
        self.step, self.output = step, output


class Notice:
    """Within it, a first SIGTERM sets `given`; a second one ends the process as it always does.

    Python runs signal handlers between two instructions of the main thread: a step that TensorFlow computes is finished
    first. In other threads than the main one there are no signal handlers, and `given` stays false.
    """

    def __init__(self):
        self.given = False
        self._before: signal.Handlers | None = None

    def __enter__(self) -> Notice:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._take)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.given = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
