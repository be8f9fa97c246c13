"""What a user can cause is one line and a status; what only a mistake of ours raises is not hidden."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nemotron_diffusion_plugin.tools.errors import Failure, errors_in_one_line


@pytest.fixture(autouse=True)
def usual_handlers() -> Iterator[None]:
    """Handle signals as a terminal's process does, also where the tests run under nohup or in the background."""
    usual = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class OutOfMemoryError(RuntimeError):
    """As torch's, for a GPU."""


@errors_in_one_line()
def end(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("field 'x': got 1,\n  expected 2"), 2, "error: field 'x': got 1, expected 2"),
        (
            OSError(errno.ENOENT, "No such file or directory", "a/b"),
            2,
            "error: a/b: No such file or directory",
        ),
        (ConnectionError("no server answers"), 2, "error: no server answers"),
        (OSError(errno.ENOSPC, "No space left on device", "a"), 1, "error: a: No space left on device"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "error: No space left on device"),
        (Failure("the server has ended"), 1, "error: the server has ended"),
        (MemoryError(), 1, "error: out of memory:"),
        (OutOfMemoryError("CUDA"), 1, "error: out of memory: CUDA"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            1,
            "error: out of memory: DefaultCPUAllocator",
        ),
        (
            ModuleNotFoundError("No module", name="matplotlib.figure"),
            2,
            "error: matplotlib is not installed; pip",
        ),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_one_line_and_a_status(
    capsys: pytest.CaptureFixture[str], error: BaseException, status: int, line: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        end(error)
    assert ended.value.code == status
    [shown] = capsys.readouterr().err.splitlines()
    assert shown.startswith(line)


@pytest.mark.parametrize(
    "error",
    [KeyError("ours"), RuntimeError("ours"), ModuleNotFoundError("no", name="ours"), SystemExit(7)],
)
def test_the_rest_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        end(error)
    assert raised.value is error


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_block_and_lets_it_clean_up(tmp_path: Path, number: signal.Signals) -> None:
    @errors_in_one_line()
    def work() -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            (tmp_path / "cleaned").touch()

    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended:
        work()
    assert ended.value.code == 128 + number
    assert (tmp_path / "cleaned").exists()
    assert signal.getsignal(number) == before


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with errors_in_one_line():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_meets_a_finalizer_is_not_lost(number: signal.Signals) -> None:
    """Python drops what a finalizer raises, and with it the exception of a signal that arrives there."""

    class Resource:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)
            sum(range(1000))

    def work() -> None:
        with errors_in_one_line():
            Resource()
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                pass

    with pytest.raises(SystemExit) as ended:
        work()
    assert ended.value.code == 128 + number
