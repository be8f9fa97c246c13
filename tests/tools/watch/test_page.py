"""The page in headless Chromium, where one is installed."""

import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlencode

import pytest

from nemotron_diffusion_plugin.tools.watch.server import WatchServer
from tests.tools.watch.conftest import StandIn

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


def _render(server: WatchServer, profile: Path, **query: object) -> str:
    """The document after its scripts have run and the answers have arrived."""
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", *QUIET]
    command += [f"--user-data-dir={profile}", "--virtual-time-budget=20000", "--dump-dom"]
    address = f"{server.url}?{urlencode(query)}"
    done = subprocess.run([*command, address], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def _column(document: str, mode: str) -> tuple[str, list[tuple[str, str]], str]:
    """State, tokens with their kind, and numbers of a mode's column."""
    found = re.search(rf'<section[^>]*id="{mode}"[^>]*>.*?</section>', document, re.S)
    assert found, document
    section = found[0]
    state = re.search(r'data-state="(\w+)"', section)
    tokens = re.findall(r'<span class="token (\w+)[^"]*">([^<]*)</span>', section)
    numbers = re.search(r'<p class="numbers[^"]*">([^<]*)</p>', section)
    assert state, section
    assert numbers, section
    return state[1], [(text, kind) for kind, text in tokens], numbers[1]


def test_three_modes_side_by_side(watch_server: WatchServer, tmp_path: Path) -> None:
    document = _render(watch_server, tmp_path, question="Who?", max_tokens=7, slowdown=1)
    assert 'data-state="done"' in re.search(r"<body[^>]*>", document)[0]
    assert "▒" not in re.search(r"<main.*</main>", document, re.S)[0]

    state, tokens, numbers = _column(document, "ar")
    assert (state, tokens) == ("done", [("The", "picked"), (" quick", "picked"), (" fox", "picked")])
    assert "3 tokens in" in numbers
    assert "3 forwards, 1.00 tokens per forward" in numbers

    state, tokens, numbers = _column(document, "self_speculation")
    assert tokens == [
        ("The", "picked"),
        (" quick", "accepted"),
        (" brown", "picked"),
        (" fox", "accepted"),
        (" &lt;b&gt;", "accepted"),
    ]
    assert "acceptance length 2.00" in numbers

    state, tokens, numbers = _column(document, "diffusion")
    assert [kind for _, kind in tokens] == ["picked", "committed", "committed", "committed"]
    assert "acceptance" not in numbers


def test_a_refusal_is_shown(watch_server: WatchServer, model_server: StandIn, tmp_path: Path) -> None:
    model_server.refuses = True
    document = _render(watch_server, tmp_path, question="Who?", slowdown=1)
    state, tokens, numbers = _column(document, "diffusion")
    assert (state, tokens) == ("failed", [])
    assert "400" in numbers
