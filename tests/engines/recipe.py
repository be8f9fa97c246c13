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
    """

    engine: str
    title: str
    revision: str
    cpu_pythons: Sequence[str]
    gpu_pythons: Sequence[str]
    write_wheels: Callable[[Path], Sequence[Path]] = _no_wheels
    cpu_folder: str | None = None

    def pythons(self, device: str) -> Sequence[str]:
        """Return the versions of Python that will do on "cpu" or "gpu", the best one first."""
        return self.cpu_pythons if device == "cpu" else self.gpu_pythons

    def requirements(self, device: str) -> Path:
        """Return the requirements file for "cpu" or "gpu"."""
        return Path(__file__).resolve().parent / self.engine / f"requirements-{device}.txt"

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


def load_recipe(engine: str) -> Recipe:
    """Return the recipe of one of `ENGINES`."""
    recipe = import_module(f"tests.engines.{engine}.recipe").RECIPE
    assert isinstance(recipe, Recipe)
    return recipe
