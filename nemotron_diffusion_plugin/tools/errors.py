"""How a command ends: one line on stderr about what was wrong, and an exit status that says of what kind it was."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from nemotron_diffusion_plugin.tools.extras import EXTRAS, missing

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
STATUSES = (
    "Exit status: 0 done, 1 failed on the way or a check found something, 2 cannot be done with what was given "
    "(option, file, address, installed packages), 128 + N ended by signal N (130: Ctrl-C)."
)
_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOMEM, errno.EMFILE)
_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Failure(RuntimeError):
    """A command cannot go on, though nothing is wrong with what it was given."""


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """End the process with one line and a status of `STATUSES` when the block raises what a user can cause.

    SIGTERM and SIGHUP end the block by an exception, so that it cleans up. What only a mistake of ours raises passes.
    """
    try:
        with _ended_by_signals():
            yield
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in EXTRAS:
            raise
        _end(missing(module), BAD_INPUT)
    except BrokenPipeError:
        raise  # whoever read the output has gone; typer ends the process without a word
    except OSError as error:
        _end(describe(error), FAILED if error.errno in _FAILURES else BAD_INPUT)
    except ValueError as error:
        _end(str(error), BAD_INPUT)
    except Failure as error:
        _end(str(error), FAILED)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        _end(f"out of memory: {error}", FAILED)


def describe(error: OSError) -> str:
    """Return what the system says in words, after the file that it is about."""
    if error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror


def _end(message: str, status: int) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(status) from None


def _is_out_of_memory(error: Exception) -> bool:
    """Also where torch says so, which has a class for GPUs only."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "allocate memory" in str(error)
    )


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    def send_again(lost: Any) -> None:
        """Send a signal again whose exception Python has dropped, as it does with all that a finalizer raises."""
        number = _signal_of(lost.exc_value)
        if number is None:
            before(lost)
        else:
            threading.Timer(0.01, os.kill, (os.getpid(), number)).start()

    # One that is ignored, as under nohup, stays so.
    changed = [number for number in _ENDING_SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, end)
    before, sys.unraisablehook = sys.unraisablehook, send_again
    try:
        yield
    finally:
        sys.unraisablehook = before
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


def _signal_of(error: BaseException | None) -> int | None:
    """Return the signal that an exception stands for, None where it stands for none."""
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT
    codes = {128 + number: number for number in _ENDING_SIGNALS}
    return codes.get(error.code) if isinstance(error, SystemExit) and isinstance(error.code, int) else None
