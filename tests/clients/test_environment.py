"""The set-up of the clients' environment. Nothing is downloaded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.clients import environment
from tests.engines.install import COMPLETE
from tests.engines.recipe import ENGINES, SetupError


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "nemotron-diffusion"


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace every command by one that only makes the environment's folder, and keep its words."""
    said: list[str] = []

    def run(*words: object, log: Path) -> None:
        said.append(" ".join(map(str, words)))
        log.with_suffix("").mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(environment, "run", run)
    monkeypatch.setattr(environment, "find_python", lambda versions: (sys.executable, versions[0]))
    return said


def test_a_second_run_installs_nothing(commands: list[str], cache: Path) -> None:
    python = environment.install()
    assert [word in command for word, command in zip(("venv", "requirements.txt"), commands, strict=True)]
    assert environment.install() == python
    assert len(commands) == 2
    assert python.is_relative_to(cache)
    assert not any(
        python.is_relative_to(folder) for engine in ENGINES for folder in cache.glob(f"{engine}-*")
    )


def test_a_half_finished_one_is_built_anew(
    commands: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cache / environment.name("3.11")
    folder.mkdir(parents=True)
    (folder / "left-over").touch()
    works = environment.run

    def fails(*words: object, log: Path) -> None:
        works(*words, log=log)
        if "--requirement" in words:
            raise SetupError("no network")

    monkeypatch.setattr(environment, "run", fails)
    with pytest.raises(SetupError, match="no network"):
        environment.install()
    assert not (folder / COMPLETE).exists()
    monkeypatch.setattr(environment, "run", works)
    environment.install()
    assert (folder / COMPLETE).exists()
    assert not (folder / "left-over").exists()


def test_the_name_changes_with_what_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = environment.name("3.11")
    assert environment.name("3.12") != before
    changed = tmp_path / "requirements.txt"
    changed.write_text("openai==0.0.1\n")
    monkeypatch.setattr(environment, "REQUIREMENTS", changed)
    assert environment.name("3.11") != before


def test_pins_are_exact() -> None:
    lines = [line for line in environment.REQUIREMENTS.read_text().splitlines() if not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    assert {"openai", "anthropic", "litellm", "langchain-openai", "lm_eval", "aiperf"} <= pins.keys()
