"""A server in the foreground is shown as it is, and its reason comes last. A small program stands in for the engine."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines.server import CHECKOUT, free_port
from tests.engines.test_server import ANSWERING, ends_soon

DYING = """
import atexit, sys
atexit.register(print, "noise", end="")
print("starting")
sys.exit("main.py: error: unrecognized arguments: --nope") if "--nope" in sys.argv else 1 / 0
"""
COUNTING = """
import http.server, signal, sys, threading, time
def interrupted(*_):
    print("interrupted", file=open(sys.argv[2], "a"))
signal.signal(signal.SIGINT, interrupted)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
signal.pause()
time.sleep(1)
"""
RUN = "from tests.engines import foreground; import sys; sys.exit(foreground.run({command}, {{}}, {url!r}, 'serve'))"


def start(folder: Path, program: str, *options: str) -> subprocess.Popen[str]:
    """Start a program as a server in the foreground, in a process group of its own; logs go to `folder`."""
    port = str(free_port())
    code = RUN.format(command=[sys.executable, "-c", program, port, *options], url=f"http://127.0.0.1:{port}")
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
        env={**os.environ, "TMPDIR": str(folder)},
        start_new_session=True,
    )


def until_ready(process: subprocess.Popen[str]) -> int:
    """Wait until the server answers, and return the process that it has started."""
    assert process.stderr is not None
    assert process.stdout is not None
    assert process.stderr.readline().startswith("ready: http://127.0.0.1:")
    return int(process.stdout.readline().split()[1])


@pytest.mark.parametrize(
    ("options", "why"),
    [((), "ZeroDivisionError: division by zero"), (("--nope",), "unrecognized arguments: --nope")],
)
def test_the_reason_comes_last_and_the_log_stays(tmp_path: Path, options: tuple[str, ...], why: str) -> None:
    process = start(tmp_path, DYING, *options)
    shown, errors = process.communicate(timeout=60)
    [log] = tmp_path.iterdir()
    assert process.returncode == 1
    assert errors == f"error: the server did not start: {why}; the whole log is {log}\n"
    assert shown == f"{log.read_text()}\n", "the last line begins a new one"
    assert shown.startswith("starting\n")
    assert shown.endswith("noise\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_launcher_ends_the_server(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path, ANSWERING)
    child = until_ready(process)
    assert list(tmp_path.iterdir()) == [], "the log goes once the server is ready"
    process.send_signal(number)
    assert process.wait(timeout=60) == 128 + number
    os.killpg(process.pid, signal.SIGKILL)
    assert ends_soon(child)
    assert "error:" not in process.communicate()[1]


def test_a_server_goes_on_when_nobody_reads_what_it_prints(tmp_path: Path) -> None:
    """As `make serve | head`: more than a pipe holds is printed before the server answers."""
    process = start(tmp_path, "print('x' * 10**6)\n" + ANSWERING)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.readline().startswith("ready: ")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("sender", ["terminal", "process"])
def test_an_interrupt_reaches_the_server_once(tmp_path: Path, sender: str) -> None:
    """Ctrl-C in a terminal goes to all processes in front of it, so that the launcher does not send it on."""
    port, seen = str(free_port()), tmp_path / "seen"
    code = RUN.format(
        command=[sys.executable, "-c", COUNTING, port, str(seen)], url=f"http://127.0.0.1:{port}"
    )
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(CHECKOUT)
        os.execv(sys.executable, [sys.executable, "-c", code])
    shown = b""
    while b"ready: " not in shown:
        shown += os.read(terminal, 1024)
    if sender == "terminal":
        os.write(terminal, b"\x03")
    else:
        os.kill(process, signal.SIGINT)
    with contextlib.suppress(OSError):  # the end of a terminal's output
        while os.read(terminal, 1024):
            pass
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    assert seen.read_text() == "interrupted\n"


def test_one_that_is_interrupted_before_it_is_ready_leaves_nothing(tmp_path: Path) -> None:
    process = start(tmp_path, "import time; print('waiting'); time.sleep(600)")
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGTERM)
    assert "error:" not in process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_the_server_is_in_the_group_of_the_launcher(tmp_path: Path) -> None:
    process = start(tmp_path, ANSWERING)
    child = until_ready(process)
    os.killpg(process.pid, signal.SIGKILL)
    assert ends_soon(child)
    process.communicate()
