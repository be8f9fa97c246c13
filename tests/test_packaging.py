"""What an installation holds, and what importing it costs."""

from __future__ import annotations

import configparser
import importlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import nemotron_diffusion_plugin

CHECKOUT = Path(__file__).parents[1]
PATCHES = CHECKOUT / "patches" / "nemotron_diffusion_patches"
PATCHED_ENGINES = sorted(path.parent.name for path in PATCHES.glob("*/__init__.py"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, check=True, cwd=CHECKOUT, capture_output=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_the_wheel_holds_the_three_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    info = f"nemotron_diffusion_plugin-{nemotron_diffusion_plugin.__version__}.dist-info"
    packages = {"nemotron_diffusion_plugin", "nemotron_diffusion_kernels", "nemotron_diffusion_patches"}
    assert tops == {*packages, info}
    assert f"{info}/licenses/LICENSE" in wheel.namelist()


def test_the_wheel_holds_the_bundled_checkpoint_and_type_marker(wheel: zipfile.ZipFile) -> None:
    folder = "nemotron_diffusion_plugin/"
    tiny = folder + "assets/tiny/"
    wanted = {folder + f"tools/watch/page/{name}" for name in ("index.html", "watch.js", "watch.css")}
    wanted |= {folder + "py.typed", tiny + "model.safetensors", tiny + "config.json", tiny + "tokenizer.json"}
    head = folder + "assets/tiny-eagle3/"
    wanted |= {head + "model.safetensors", head + "config.json"}
    assert wanted <= set(wheel.namelist())
    assert sum(item.file_size for item in wheel.infolist() if item.filename.startswith(tiny)) <= 10 * 2**20


def test_entry_points(wheel: zipfile.ZipFile) -> None:
    name = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    entries = configparser.ConfigParser()
    entries.read_string(wheel.read(name).decode())
    assert entries["console_scripts"]["nemotron-diffusion"] == "nemotron_diffusion_plugin.tools.cli:app"
    assert entries["vllm.general_plugins"]["nemotron_diffusion"] == "nemotron_diffusion_plugin.vllm:register"


@pytest.mark.parametrize("engine", PATCHED_ENGINES)
def test_an_engines_extra_asks_for_the_versions_its_patches_are_written_for(engine: str) -> None:
    supported = importlib.import_module(f"nemotron_diffusion_patches.{engine}").SUPPORTED
    extras = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    assert f'{engine} = ["{engine}{supported}"]' in extras


@pytest.mark.parametrize("module", ["nemotron_diffusion_plugin", "nemotron_diffusion_plugin.tools.cli"])
def test_importing_brings_no_framework_and_no_engine(module: str) -> None:
    code = f"import sys, {module}; print(*{{'torch', 'transformers', 'vllm', 'sglang'}} & set(sys.modules))"
    answer = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=CHECKOUT, capture_output=True, text=True
    )
    assert answer.stdout.strip() == ""
