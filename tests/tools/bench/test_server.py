import os
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from nemotron_diffusion_plugin.tools.bench.errors import BenchError
from nemotron_diffusion_plugin.tools.bench.server import RunningServer, Server, free_port, is_healthy


def server(launcher, tmp_path, *options, timeout=20.0, on_wait=None):
    port = free_port()
    command = [*shlex.split(launcher), "folder", "--port", str(port), *options]
    return Server(command, port, tmp_path / "server.log", timeout, on_wait)


def exists(process_id):
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process_id}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def gone(process_id):
    for _ in range(50):
        if not exists(process_id):
            return True
        time.sleep(0.1)
    return False


def test_the_server_and_what_it_started_end_with_the_block(launcher, tmp_path):
    child = tmp_path / "child"
    seen = []
    with server(
        launcher, tmp_path, "--child", str(child), on_wait=lambda *wait: seen.append(wait)
    ) as running:
        assert is_healthy(running.url)
        assert running.is_running
        assert running.seconds_to_ready > 0
        assert exists(int(child.read_text()))
    assert seen
    assert not is_healthy(running.url)
    assert gone(int(child.read_text()))


def test_also_when_the_block_is_left_by_an_error(launcher, tmp_path):
    child = tmp_path / "child"
    with (
        pytest.raises(KeyboardInterrupt),
        server(launcher, tmp_path, "--child", str(child)),
    ):
        raise KeyboardInterrupt
    assert gone(int(child.read_text()))


def test_a_server_that_ends_at_once_shows_its_log(launcher, tmp_path):
    with pytest.raises(BenchError, match=r"the server ended after \d+ s, before it was ready; its") as caught:
        server(launcher, tmp_path, "--die-at-start").__enter__()
    assert "no such checkpoint, says the fake" in caught.value.log_tail


def test_the_reason_and_the_log_are_named(tmp_path):
    command = [sys.executable, "-c", "print('loading'); raise ValueError('no such weights')"]
    with pytest.raises(BenchError) as caught:
        Server(command, free_port(), tmp_path / "server.log").__enter__()
    assert str(caught.value).endswith(
        f" s, before it was ready: ValueError: no such weights; its log is {tmp_path}/server.log"
    )


def test_a_server_that_is_never_ready_is_ended(launcher, tmp_path):
    child = tmp_path / "child"
    slow = server(launcher, tmp_path, "--never-ready", "--child", str(child), timeout=60)

    def give_up_once_the_child_runs(*_):
        if child.exists() and child.read_text():
            slow.timeout = 0

    slow.on_wait = give_up_once_the_child_runs
    with pytest.raises(BenchError, match=r"was not ready after \d+ s \(--start-timeout\)"):
        slow.__enter__()
    assert gone(int(child.read_text()))


def test_no_such_program(tmp_path):
    with pytest.raises(ValueError, match="no program 'no-such-engine'; name another with --launcher"):
        server("no-such-engine serve", tmp_path).__enter__()


def test_a_running_server_is_left_alone(url):
    with RunningServer(url + "/") as running:
        assert running.url == url
    assert is_healthy(url)
    assert "still answers" in str(running.lost("a request failed"))


def test_nothing_answers():
    with pytest.raises(ValueError, match="no server answers at http://127"):
        RunningServer(f"http://127.0.0.1:{free_port()}").__enter__()


def test_a_server_started_in_the_background_ends_at_once(launcher, tmp_path):
    """A shell starts background jobs with SIGINT ignored, which a server would inherit."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with server(launcher, tmp_path):
            start = time.monotonic()
        assert time.monotonic() - start < 8.0
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_to_the_command_ends_the_server_and_keeps_the_rest(launcher, tmp_path, name):
    child, output = tmp_path / "child", tmp_path / "out"
    command = [
        *(sys.executable, "-c", "from nemotron_diffusion_plugin.tools.cli import app; app()"),
        *("bench", "--launcher", launcher, "--methods", "ar", "--per-category", "1"),
        *("--server-options", f"--child {child} --slow", "--categories", "code", "--output", str(output)),
    ]
    # As from a terminal, also where the tests run in the background and ignore interrupts.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    deadline = time.monotonic() + 60
    while not (output / "bench.json").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(getattr(signal, name))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == {"SIGINT": 130, "SIGTERM": 143}[name], errors
    assert "Traceback" not in errors
    assert gone(int(child.read_text()))
    assert (output / "bench.json").exists()
