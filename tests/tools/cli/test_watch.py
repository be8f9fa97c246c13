"""`nemotron-diffusion watch`: what it says when it cannot start; the page itself is tested in tests/watch/."""

import socket
import sys

import pytest

from nemotron_diffusion_plugin.tools.client.served_model import ServedModel

watch = sys.modules["nemotron_diffusion_plugin.tools.cli.watch"]


def test_no_server_is_one_line(run) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        result = run("watch", "--url", f"http://127.0.0.1:{unused.getsockname()[1]}", "--port", "0")
    assert result.exit_code == 2
    assert "no server answers at http://127.0.0.1:" in result.stderr


def test_a_port_in_use_is_one_line(run, monkeypatch) -> None:
    monkeypatch.setattr(watch, "find_model", lambda url: ServedModel(url, None, "tiny", "vllm"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("watch", "--port", taken.getsockname()[1])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: cannot listen on 127.0.0.1:")
    assert result.stderr.rstrip().endswith("choose another --port")


@pytest.mark.parametrize("host", ["nobody.invalid", "203.0.113.1", "a" * 70])
def test_a_host_that_is_not_ours_is_not_blamed_on_the_port(run, monkeypatch, host) -> None:
    monkeypatch.setattr(watch, "find_model", lambda url: ServedModel(url, None, "tiny", "vllm"))
    result = run("watch", "--host", host, "--port", "0")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: cannot listen on {host}:0: ")
    assert result.stderr.rstrip().endswith("choose another --host")
