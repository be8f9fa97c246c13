"""What the installer has to know about an engine; one `recipe.py` in each engine's folder says it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

ENGINES = ("vllm", "sglang")


class SetupError(Exception):
    """The environment cannot be set up; the message says what to do."""


def _no_wheels(folder: Path) -> Sequence[Path]:
    return ()


@dataclass(frozen=True)
class Recipe:
    """How to install one engine.

    `revision` counts changes of the installer that make existing environments wrong. `write_wheels` makes
    wheels in a folder, which are installed after the requirements for a CPU. `cpu_folder`, beside the requirements, is
    what the engine cannot be imported without on a CPU: plain Python of the environment finds it.

    A recipe of a `version` that has no build for a CPU stands on the environment of a `base`: `overlay(packages,
    base_packages)` is called with the folders of both environments' packages, once the requirements are installed.
    """

    engine: str
    title: str
    revision: str
    cpu_pythons: Sequence[str]
    gpu_pythons: Sequence[str]
    write_wheels: Callable[[Path], Sequence[Path]] = _no_wheels
    cpu_folder: str | None = None
    version: str | None = None
    base: Recipe | None = None
    overlay: Callable[[Path, Path], None] | None = None

    @property
    def name(self) -> str:
        """The engine, and its version where that is not the usual one."""
        return self.engine if self.version is None else f"{self.engine}-{self.version}"

    def pythons(self, device: str) -> Sequence[str]:
        """Return the versions of Python that will do on "cpu" or "gpu", the best one first."""
        return self.cpu_pythons if device == "cpu" else self.gpu_pythons

    def requirements(self, device: str) -> Path:
        """Return the requirements file for "cpu" or "gpu"."""
        version = "" if self.version is None else f"-{self.version}"
        return Path(__file__).resolve().parent / self.engine / f"requirements-{device}{version}.txt"

    def import_folders(self, device: str) -> Sequence[Path]:
        """Return the folders, beside the packages, in which Python finds what it imports on "cpu" or "gpu"."""
        if device != "cpu" or self.cpu_folder is None:
            return ()
        return (self.requirements(device).parent / self.cpu_folder,)

    def check_machine(self, device: str) -> None:
        """Refuse a machine for which the pinned packages do not exist.

        Raises:
            SetupError: it is one.
        """
        if device == "cpu" and (
            platform.machine() not in ("x86_64", "AMD64") or platform.system() != "Linux"
        ):
            raise SetupError(
                f"the packages that run {self.title} on a CPU exist for Linux on x86-64 only, this is "
                f"{platform.system()} on {platform.machine()}. The tests without an engine run anywhere: "
                "pip install -e '.[dev]' && pytest tests --ignore=tests/vllm --ignore=tests/sglang "
                "--ignore=tests/engines --ignore=tests/patches"
            )


def load_recipe(engine: str, version: str | None = None) -> Recipe:
    """Return the recipe of one of `ENGINES`, in another version than the usual one where `version` names it.

    Raises:
        SetupError: there is no recipe for that version.
    """
    module = import_module(f"tests.engines.{engine}.recipe")
    if not version or version == module.USUAL:
        recipe = module.RECIPE
    elif version in module.OTHERS:
        recipe = module.OTHERS[version]
    else:
        there_are = ", ".join([module.USUAL, *module.OTHERS])
        raise SetupError(f"no recipe for {module.RECIPE.title} {version}, there are {there_are}")
    assert isinstance(recipe, Recipe)
    return recipe
