"""A server ends with its block, whatever happens in it. A small program stands in for the engine."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

import pytest

from tests.engines import starts
from tests.engines.server import HOST, EngineServer, ServerError, check_model, check_port

ANSWERING = """
import http.server, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture(autouse=True)
def _count_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No engine starts here."""
    monkeypatch.delenv(starts.VARIABLE, raising=False)


class StandIn(EngineServer):
    """Runs a Python program instead of an engine."""

    program = ANSWERING

    def command(self) -> list[str]:
        return [sys.executable, "-c", self.program, str(self.port)]

    def environment(self) -> dict[str, str]:
        return dict(os.environ)


def is_alive(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def ends_soon(process: int) -> bool:
    deadline = time.monotonic() + 10
    while is_alive(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_alive(process)


def test_the_server_ends_with_its_block_and_takes_its_children_along(tmp_path: Path) -> None:
    seen: list[str] = []
    log = tmp_path / "log"
    with StandIn("model", log=log, on_wait=lambda seconds, line: seen.append(line)) as server:
        assert server.healthy()
        child = int(log.read_text().split()[1])
        assert is_alive(child)
    assert seen
    assert not server.healthy()
    assert ends_soon(child)


def test_an_error_inside_the_block_ends_the_server(tmp_path: Path) -> None:
    with pytest.raises(KeyError), StandIn("model", log=tmp_path / "log") as server:
        raise KeyError
    assert not server.healthy()


def test_a_server_that_dies_is_reported_with_its_log(tmp_path: Path) -> None:
    server = StandIn("model", log=tmp_path / "log")
    server.program = "raise SystemExit('no such model')"
    with pytest.raises(ServerError, match="no such model"), server:
        pass


def test_the_last_line_of_the_report_says_why_and_names_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    server = StandIn("model", log=log)
    server.program = "import atexit; atexit.register(print, 'noise'); raise ValueError('no such model')"
    with pytest.raises(ServerError) as caught, server:
        pass
    last = str(caught.value).splitlines()[-1]
    assert last.startswith("the server stopped after ")
    assert last.endswith(f" s: ValueError: no such model; the whole log is {log}")


@pytest.mark.parametrize("model", ["/no/such/folder", "./nothing", "nothing", "a/b/c", ""])
def test_a_path_that_leads_nowhere_is_refused_at_once(model: str) -> None:
    with pytest.raises(ValueError, match=f"MODEL: got '{model}', no such folder"):
        check_model(model)


def test_a_folder_without_a_config_is_refused_at_once(tmp_path: Path) -> None:
    for content in (None, "", "[]", "{"):
        if content is not None:
            (tmp_path / "config.json").write_text(content)
        with pytest.raises(ValueError, match=r"config\.json is missing or no JSON"):
            check_model(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    check_model(tmp_path)


def test_a_port_that_cannot_be_is_refused_at_once() -> None:
    for port in ("many", "", "0", "-1", "65536", "9" * 30, "1.5"):
        with pytest.raises(ValueError, match=f"PORT: got '{port}', expected 1 to 65535"):
            check_port(port)
    with socket.create_server((HOST, 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(
            ValueError, match=f"PORT: cannot listen on {port}, Address already in use; choose another"
        ):
            check_port(port)
    assert check_port(port) == int(port)


def test_a_server_that_never_answers_is_stopped(tmp_path: Path) -> None:
    log = tmp_path / "log"
    server = StandIn("model", log=log, timeout=2.0)
    server.program = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with pytest.raises(ServerError, match="not ready"), server:
        pass
    assert ends_soon(int(log.read_text()))
