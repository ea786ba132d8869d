"""What several tests of runs need: an interruption at a step."""

import contextlib

import pytest


@pytest.fixture
def interrupted_after(monkeypatch):
    """Returns a context within which a run is interrupted after a step, whose state has been saved if it was due."""
    from training.callbacks import SaveState

    save = SaveState.at_step

    @contextlib.contextmanager
    def interrupted(last: int):
        def stops(self, step, logs):
            save(self, step, logs)
            if step == last:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(SaveState, "at_step", stops)
            with pytest.raises(KeyboardInterrupt):
                yield

    return interrupted
