"""The process of a command line: what TensorFlow may say at its start, Ctrl-C, errors as one line, exit codes."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import click

BAD_INPUT = (ValueError, TypeError, OSError, ImportError)
BAD_INPUT_EXIT = 2
"""Exit code for what no repetition mends."""


def begin() -> None:
    """Prepares this process for its command; to be called before TensorFlow is imported."""
    quiet_start()
    sys.unraisablehook = _interrupt_again


def quiet_start() -> None:
    """Keeps TensorFlow's C++ start-up messages from stderr; to be called before it is imported."""
    # Without an NVIDIA driver TensorFlow logs an error at start, which only level 3 hides. Errors of operations are
    # Python exceptions at any level.
    has_driver = any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg"))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2" if has_driver else "3")


def _interrupt_again(ignored: Any) -> None:
    """Sends a Ctrl-C once more that Python could not raise, since it came while an object was removed; reports all else."""
    if ignored.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(ignored)
        return
    # Later, and to the main thread, which may wait for input by then.
    threading.Timer(0.1, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()


def run(group: click.Group, arguments: list[str]) -> int:
    """Runs one command line of `garden` and returns its exit code."""
    debug = "--debug" in arguments
    try:
        code = group.main(arguments, prog_name="garden", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "garden"
        return _refuse(f"{error.format_message()} (see {path} --help)")
    except click.ClickException as error:
        return _refuse(error.format_message())
    except (KeyboardInterrupt, click.Abort):
        click.echo("garden: interrupted", err=True)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # What is still buffered has no reader either; Python would complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if hasattr(error, "exit_code"):  # an ending with a code of its own
            click.echo(f"garden: {_one_line(error)}", err=True)
            return error.exit_code
        if debug or not (isinstance(error, BAD_INPUT) or type(error).__module__.startswith(("tensorflow", "serving"))):
            raise
        return _refuse(_one_line(error))


def _refuse(message: str) -> int:
    click.echo(f"garden: error: {message}", err=True)
    return BAD_INPUT_EXIT


def _one_line(error: Exception) -> str:
    """Returns an error's message in one line; of a failed check inside a graph, the check's own words."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    message = str(getattr(error, "message", None) or error)
    failed = re.search(r"assertion failed: ((?:\[.*?\] ?)+)", message)
    if failed:
        return " ".join(part.strip("'\"") for part in re.findall(r"\[(.*?)\]", failed[1]))
    return " ".join(message.split()) or type(error).__name__
