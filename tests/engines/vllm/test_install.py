"""The set-up of the engine environment: names, half-finished builds, the alias wheel. Nothing is downloaded."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.engines.vllm import install
from tests.engines.vllm.alias_wheel import write_alias_wheel


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "nemotron-diffusion"


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace both builders by ones that only mark their environment complete, and count them."""
    done: list[str] = []

    def engine(folder: Path, python: str, device: str) -> None:
        done.append("engine")
        folder.mkdir(parents=True)
        (folder / install.COMPLETE).touch()

    def checkout(folder: Path, engine: Path, state: str) -> None:
        done.append("checkout")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / install.COMPLETE).write_text(state)

    monkeypatch.setattr(install, "build_engine", engine)
    monkeypatch.setattr(install, "build_checkout", checkout)
    monkeypatch.setattr(install, "find_python", lambda versions: (sys.executable, versions[0]))
    return done


def test_a_second_run_builds_nothing(builds: list[str], cache: Path) -> None:
    first = install.install("cpu")
    assert builds == ["engine", "checkout"]
    assert install.install("cpu") == first
    assert builds == ["engine", "checkout"]
    assert first.is_relative_to(cache)


def test_only_this_checkout_is_installed_anew_when_its_packaging_changes(
    builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install.install("cpu")
    monkeypatch.setattr(install, "checkout_state", lambda engine: "changed")
    install.install("cpu")
    assert builds == ["engine", "checkout", "checkout"]


def test_two_checkouts_share_the_engine(
    builds: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = install.install("cpu")
    (tmp_path / "nemotron_diffusion_plugin").mkdir()
    (tmp_path / "nemotron_diffusion_plugin" / "__init__.py").touch()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(install, "CHECKOUT", tmp_path)
    assert install.install("cpu") != first
    assert builds == ["engine", "checkout", "checkout"]


def test_a_half_finished_engine_is_removed_and_built_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commands: list[str] = []
    engine = tmp_path / "engine"
    engine.mkdir()
    (engine / "left-over").touch()

    def run(*command: object, log: Path) -> None:
        commands.append(" ".join(map(str, command)))
        if len(commands) == 3:
            raise install.SetupError("no network")
        engine.mkdir(exist_ok=True)

    monkeypatch.setattr(install, "run", run)
    monkeypatch.setattr(install, "make_torch_load", lambda *_: None)
    with pytest.raises(install.SetupError, match="no network"):
        install.build_engine(engine, sys.executable, "cpu")
    assert not (engine / "left-over").exists()
    assert not (engine / install.COMPLETE).exists()
    commands.append("the third command of the second try succeeds")
    install.build_engine(engine, sys.executable, "cpu")
    assert (engine / install.COMPLETE).exists()


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_engine_s_name_changes_with_the_requirements(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str
) -> None:
    before = install.engine_name(device, "3.11")
    assert install.engine_name(device, "3.12") != before
    changed = tmp_path / "requirements.txt"
    changed.write_text("vllm==0.0.1\n")
    monkeypatch.setattr(install, "requirements", lambda _: changed)
    assert install.engine_name(device, "3.11") != before


@pytest.mark.parametrize("loads", [True, False])
def test_libraries_are_added_only_to_a_torch_that_does_not_load(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, loads: bool
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexit {int(not loads)}\n")
    python.chmod(0o755)
    commands: list[tuple[object, ...]] = []
    monkeypatch.setattr(install, "run", lambda *command, log: commands.append(command))
    monkeypatch.setattr(install, "capture", lambda *command: "cuda-toolkit[cublas]==13\nnvidia-nccl==2")
    install.make_torch_load(python, ("pip", "install"), tmp_path / "log")
    added = ("pip", "install", "cuda-toolkit[cublas]==13", "nvidia-nccl==2")
    assert commands == ([] if loads else [added, (python, "-c", "import torch")])


def test_a_missing_python_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("PYTHON", raising=False)
    with pytest.raises(install.SetupError, match=r"no Python 3\.11 .*PYTHON="):
        install.find_python(("3.11",))


def test_a_failing_command_shows_its_output(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("")
    with pytest.raises(install.SetupError, match="out of disk"):
        install.run(sys.executable, "-c", "raise SystemExit('out of disk')", log=log)


def test_a_machine_without_a_cpu_build_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install.platform, "machine", lambda: "arm64")
    with pytest.raises(install.SetupError, match=r"x86-64 only.*arm64"):
        install.check_machine("cpu")
    install.check_machine("gpu")


def test_the_alias_wheel_holds_metadata_only_and_installs(tmp_path: Path) -> None:
    wheel = write_alias_wheel(tmp_path, "1.2.3")
    with zipfile.ZipFile(wheel) as archive:
        assert all(name.startswith("vllm-1.2.3+cpu.dist-info/") for name in archive.namelist())
    target = tmp_path / "target"
    command = (
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--target",
        target,
        wheel,
    )
    subprocess.run(command, check=True)
    query = "from importlib.metadata import version; print(version('vllm'))"
    answer = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(target)!r}]; {query}"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert answer.stdout.strip() == "1.2.3+cpu"
