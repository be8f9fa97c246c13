"""A server in the foreground: what it prints is shown, and when it does not get ready the reason is the last line."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from nemotron_diffusion_plugin.tools.bench.log import reason
from nemotron_diffusion_plugin.tools.bench.server import is_healthy

FAILED = 1
_PATIENCE = 5.0  # seconds to read the rest, which a process that the server left behind may hold open
_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def run(command: Sequence[str], environment: Mapping[str, str], url: str, name: str) -> int:
    """Run a server until it ends, and return its exit status; 1 where it was never ready.

    It stays in this process group, so that what ends the group ends it; a signal that was sent to this process alone is
    sent on. Until /health of `url` answers, what it prints is kept in a log too, which stays when it failed.
    """
    record, path = tempfile.mkstemp(prefix=f"{name}-", suffix=".log")
    log, is_ready = Path(path), threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell lets jobs in the background ignore it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_ENDING, signal.SIGCHLD})
    process = subprocess.Popen(
        command,
        env={"PYTHONUNBUFFERED": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, before),
    )
    assert process.stdout is not None
    copying = threading.Thread(target=_copy, args=(process.stdout.fileno(), record, is_ready), daemon=True)
    copying.start()
    was_ended = _wait(process, url, is_ready, log)
    copying.join(_PATIENCE)
    if is_ready.is_set() or was_ended:
        log.unlink(missing_ok=True)
        return process.returncode if process.returncode >= 0 else 128 - process.returncode
    shown = log.read_text(errors="replace")
    if shown and not shown.endswith("\n"):
        print(flush=True)
    why = reason(shown.splitlines()) or f"it ended with status {process.returncode}"
    print(f"error: the server did not start: {why}; the whole log is {log}", file=sys.stderr)
    return FAILED


def _copy(source: int, record: int, is_ready: threading.Event) -> None:
    while part := os.read(source, 65536):
        with contextlib.suppress(OSError):  # nobody reads it any more; the server must not wait for that
            _write(sys.stdout.fileno(), part)
        if not is_ready.is_set():
            _write(record, part)


def _write(file: int, part: bytes) -> None:
    while part:
        part = part[os.write(file, part) :]


def _wait(process: subprocess.Popen[bytes], url: str, is_ready: threading.Event, log: Path) -> bool:
    """Wait until the server ends, send signals on, and see when it is ready; return whether a signal ended it."""
    was_ended = False
    while process.poll() is None:
        received = signal.sigtimedwait({*_ENDING, signal.SIGCHLD}, 1.0)
        if received is not None and received.si_signo in _ENDING:
            was_ended = True
            if received.si_code <= 0:  # from a process; a terminal sends it to the server too
                process.send_signal(received.si_signo)
        elif not is_ready.is_set() and is_healthy(url):
            is_ready.set()
            log.unlink()
            print(f"ready: {url}", file=sys.stderr, flush=True)
    return was_ended
