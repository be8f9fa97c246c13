"""The set-up of the engine environments: names, half-finished builds, removal. Nothing is downloaded."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.engines import install
from tests.engines.recipe import ENGINES, Recipe, SetupError, load_recipe

VLLM, SGLANG = load_recipe("vllm"), load_recipe("sglang")


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "nemotron-diffusion"


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace both builders by ones that only mark their environment complete, and count them."""
    done: list[str] = []

    def engine(folder: Path, python: str, recipe: Recipe, device: str) -> None:
        done.append("engine")
        folder.mkdir(parents=True)
        (folder / install.COMPLETE).touch()

    def checkout(folder: Path, engine: Path, state: str, folders: Sequence[Path]) -> None:
        done.append("checkout")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / install.COMPLETE).write_text(state)

    monkeypatch.setattr(install, "build_engine", engine)
    monkeypatch.setattr(install, "build_checkout", checkout)
    monkeypatch.setattr(install, "find_python", lambda versions: (sys.executable, versions[0]))
    return done


@pytest.mark.parametrize("engine", ENGINES)
def test_a_second_run_builds_nothing(builds: list[str], cache: Path, engine: str) -> None:
    recipe = load_recipe(engine)
    first = install.install(recipe, "cpu")
    assert builds == ["engine", "checkout"]
    assert install.install(recipe, "cpu") == first
    assert builds == ["engine", "checkout"]
    assert first.is_relative_to(cache)


def test_the_engines_have_environments_of_their_own(builds: list[str], cache: Path) -> None:
    assert install.install(VLLM, "cpu") != install.install(SGLANG, "cpu")
    assert builds == ["engine", "checkout", "engine", "checkout"]
    assert {folder.name.split("-")[0] for folder in cache.glob("*-cpu-*") if folder.is_dir()} == set(ENGINES)


def test_another_version_lies_over_the_usual_one_on_a_cpu(
    builds: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = load_recipe("vllm", "0.33")
    assert install.install(newer, "cpu") != install.install(VLLM, "cpu")
    assert install.stands_on_base(newer, "cpu")
    assert not install.stands_on_base(newer, "gpu")
    assert newer.requirements("cpu").exists()
    assert newer.requirements("gpu").exists()
    before = install.engine_name(newer, "cpu", "3.11")
    monkeypatch.setattr(type(VLLM), "requirements", lambda recipe, device: Path(__file__))
    assert install.engine_name(newer, "cpu", "3.11") != before
    assert load_recipe("vllm", "0.32") == load_recipe("vllm", "") == VLLM
    with pytest.raises(SetupError, match=r"no recipe for vLLM 9\.9, there are 0\.32, 0\.33"):
        load_recipe("vllm", "9.9")


def test_removing_takes_this_checkout_s_environments_only(builds: list[str], cache: Path) -> None:
    pythons = [install.install(recipe, "cpu") for recipe in (VLLM, SGLANG)]
    other = cache / "checkouts" / "vllm-cpu-of-another-one"
    other.mkdir()
    install.remove_checkout_environments()
    assert not any(python.parents[1].exists() for python in pythons)
    assert list((cache / "checkouts").iterdir()) == [other]
    assert len([folder for folder in cache.glob("*-cpu-*") if folder.is_dir()]) == 2


def test_only_this_checkout_is_installed_anew_when_its_packaging_changes(
    builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install.install(VLLM, "cpu")
    monkeypatch.setattr(install, "checkout_state", lambda *_: "changed")
    install.install(VLLM, "cpu")
    assert builds == ["engine", "checkout", "checkout"]


def test_python_finds_what_the_engine_cannot_be_imported_without(tmp_path: Path) -> None:
    [folder] = SGLANG.import_folders("cpu")
    assert (folder / "sitecustomize.py").is_file()
    assert [*SGLANG.import_folders("gpu"), *VLLM.import_folders("cpu")] == []
    assert install.checkout_state(tmp_path, [folder]) != install.checkout_state(tmp_path, [])


def test_two_checkouts_share_the_engine(
    builds: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = install.install(VLLM, "cpu")
    (tmp_path / "nemotron_diffusion_plugin").mkdir()
    (tmp_path / "nemotron_diffusion_plugin" / "__init__.py").touch()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(install, "CHECKOUT", tmp_path)
    assert install.install(VLLM, "cpu") != first
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
            raise SetupError("no network")
        engine.mkdir(exist_ok=True)

    monkeypatch.setattr(install, "run", run)
    monkeypatch.setattr(install, "make_torch_load", lambda *_: None)
    with pytest.raises(SetupError, match="no network"):
        install.build_engine(engine, sys.executable, VLLM, "cpu")
    assert not engine.exists()
    commands.append("the third command of the second try succeeds")
    install.build_engine(engine, sys.executable, VLLM, "cpu")
    assert (engine / install.COMPLETE).exists()


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_engine_s_name_changes_with_what_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: str, device: str
) -> None:
    recipe = load_recipe(engine)
    before = install.engine_name(recipe, device, "3.11")
    assert before.startswith(f"{engine}-{device}-py3.11-")
    assert install.engine_name(recipe, device, "3.12") != before
    assert install.engine_name(dataclasses.replace(recipe, revision="other"), device, "3.11") != before
    changed = tmp_path / "requirements.txt"
    changed.write_text("vllm==0.0.1\n")
    monkeypatch.setattr(Recipe, "requirements", lambda recipe, device: changed)
    assert install.engine_name(recipe, device, "3.11") != before


@pytest.mark.parametrize("engine", ENGINES)
def test_pins_are_exact_and_agree_with_the_tools(engine: str) -> None:
    def pins(file: Path) -> dict[str, str]:
        lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
        return dict(line.split("==") for line in lines)

    tools, packages = pins(install.TOOLS), pins(load_recipe(engine).requirements("cpu"))
    both = tools.keys() & packages.keys()
    assert {name: packages[name] for name in both} == {name: tools[name] for name in both}


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
    with pytest.raises(SetupError, match=r"no Python 3\.11 .*PYTHON="):
        install.find_python(("3.11",))


def test_a_failing_command_shows_its_output(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("")
    with pytest.raises(SetupError, match="out of disk"):
        install.run(sys.executable, "-c", "raise SystemExit('out of disk')", log=log)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_machine_without_a_cpu_build_is_refused(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    recipe = load_recipe(engine)
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    with pytest.raises(SetupError, match=r"x86-64 only.*arm64"):
        recipe.check_machine("cpu")
    recipe.check_machine("gpu")


def test_the_program_runs_from_anywhere(tmp_path: Path) -> None:
    command = [sys.executable, install.__file__, "--help"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert "--engine" in answer.stdout
