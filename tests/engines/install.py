#!/usr/bin/env python3
"""Set up the environment in which this checkout runs an engine, and print the path of its Python.

Two layers, both in the user's cache folder and never in the source tree:

* an **engine environment** with the engine and the tools, shared by all checkouts, named by a hash of
  everything that decides its content. It is built under a lock and marked complete as the last step; one
  without the mark is built anew.
* a thin **checkout environment** on top, which holds only this checkout, installed editable, so that entry
  points and the `nemotron-diffusion` command are those of this checkout and not those of another one.

What differs between the engines is in `tests/engines/<engine>/recipe.py` and the requirements beside it. A
machine with an NVIDIA GPU gets the official engine, any other one the pinned packages of
`requirements-cpu.txt`. Runs on any Python >= 3.8 without third-party packages; repeated runs take well under
a second.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
if __name__ == "__main__":
    sys.path[0] = str(CHECKOUT)  # instead of this folder, whose subfolders are named like the engines

from tests.engines.commands import capture, lock, read, run, say  # noqa: E402
from tests.engines.recipe import ENGINES, Recipe, SetupError, load_recipe  # noqa: E402

TOOLS = HERE.parent / "requirements.txt"
COMPLETE = "complete"
VERSION = "ENGINE_VERSION"
TORCH_LIBRARIES = """
from importlib.metadata import requires
from packaging.requirements import Requirement
for line in map(Requirement, requires("torch")):
    if line.name.startswith(("cuda-", "nvidia-")) and (line.marker is None or line.marker.evaluate()):
        print(f"{line.name}[{','.join(line.extras)}]{line.specifier}")
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0], help="default: %(default)s")
    parser.add_argument(
        "--engine-version",
        default=os.environ.get(VERSION, ""),
        help=f"default: ${VERSION}, or the one that the tests use",
    )
    parser.add_argument("--device", choices=("cpu", "gpu"), help="default: gpu where nvidia-smi lists one")
    parser.add_argument(
        "--remove",
        action="store_true",
        help="remove this checkout's thin environments of all engines instead",
    )
    arguments = parser.parse_args()
    if arguments.remove:
        remove_checkout_environments()
        return 0
    try:
        recipe = load_recipe(arguments.engine, arguments.engine_version)
        python = install(recipe, arguments.device or detect_device())
    except SetupError as error:
        say(str(error))
        return 1
    except OSError as error:
        say(f"{error.filename}: {error.strerror}; XDG_CACHE_HOME names the folder of the environments")
        return 1
    except KeyboardInterrupt:
        say("stopped; the next run begins this environment anew")
        return 130
    print(python)
    return 0


def install(recipe: Recipe, device: str) -> Path:
    """Make both layers exist and return the checkout environment's Python."""
    engine = install_engine(recipe, device)
    checkout = checkout_environment(recipe, device)
    folders = recipe.import_folders(device)
    state = checkout_state(engine, folders)
    with lock(checkout):
        if read(checkout / COMPLETE) != state:
            build_checkout(checkout, engine, state, folders)
    return checkout / "bin" / "python"


def install_engine(recipe: Recipe, device: str) -> Path:
    """Make the layer of the engine exist and return its folder."""
    python, version = find_python(recipe.pythons(device))
    engine = cache_folder() / engine_name(recipe, device, version)
    with lock(engine):
        if not (engine / COMPLETE).exists():
            build_engine(engine, python, recipe, device)
    return engine


def remove_checkout_environments() -> None:
    """Remove this checkout's thin environments; those of the engines stay, other checkouts may use them."""
    for entry in (cache_folder() / "checkouts").glob(f"*-{checkout_hash()}*"):
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink()


def detect_device() -> str:
    """Return "gpu" where the NVIDIA driver lists a card, else "cpu"."""
    if shutil.which("nvidia-smi") is None:
        return "cpu"
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return "gpu" if "GPU " in listing.stdout else "cpu"


def find_python(versions: Sequence[str]) -> tuple[str, str]:
    """Return (executable, version) of the first wanted Python that has `venv`: $PYTHON, then those on PATH.

    Raises:
        SetupError: none of `versions` is installed.
    """
    chosen = os.environ.get("PYTHON")
    for candidate in [*([chosen] if chosen else []), *(f"python{v}" for v in versions), "python3", "python"]:
        found = shutil.which(candidate)
        if found is None:
            continue
        probe = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
        answer = subprocess.run([found, "-c", probe], capture_output=True, text=True, check=False)
        if answer.returncode == 0 and answer.stdout.strip() in versions:
            return found, answer.stdout.strip()
    raise SetupError(
        f"found no Python {' or '.join(versions)} with the module venv. Install it "
        "(Debian: apt-get install python3.11-venv) or name one: PYTHON=/path/to/python3.11 make setup"
    )


def cache_folder() -> Path:
    """Return the folder of the environments: $XDG_CACHE_HOME (default ~/.cache)/nemotron-diffusion."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root).expanduser().resolve() / "nemotron-diffusion"


def engine_name(recipe: Recipe, device: str, python_version: str) -> str:
    """Return the engine environment's name; it changes with the machine, the Python and every requirement."""
    content = hashlib.sha256()
    for part in (recipe.revision, platform.machine(), python_version, device):
        content.update(part.encode() + b"\0")
    below = [recipe.base.requirements(device)] if stands_on_base(recipe, device) and recipe.base else []
    for file in (recipe.requirements(device), TOOLS, *below):
        content.update(file.read_bytes() + b"\0")
    return f"{recipe.name}-{device}-py{python_version}-{content.hexdigest()[:12]}"


def stands_on_base(recipe: Recipe, device: str) -> bool:
    """Whether the engine's layer is a thin one over that of the recipe's base."""
    return device == "cpu" and recipe.base is not None


def checkout_environment(recipe: Recipe, device: str) -> Path:
    return cache_folder() / "checkouts" / f"{recipe.name}-{device}-{checkout_hash()}"


def checkout_hash() -> str:
    return hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:12]


def checkout_state(engine: Path, folders: Sequence[Path]) -> str:
    """Return what the checkout environment was made from; it is made anew when this changes."""
    content = hashlib.sha256("\n".join(map(str, (engine, *folders))).encode())
    for file in ("pyproject.toml", "nemotron_diffusion_plugin/__init__.py"):
        content.update((CHECKOUT / file).read_bytes())
    return content.hexdigest()


def build_engine(engine: Path, python: str, recipe: Recipe, device: str) -> None:
    """Build the engine environment from nothing and mark it complete; one that is not finished is removed."""
    start = time.monotonic()
    say(f"setting up {recipe.title} for the {device.upper()} in {engine} (once; about 3 GB, some minutes)")
    recipe.check_machine(device)
    shutil.rmtree(engine, ignore_errors=True)
    try:
        fill_engine(engine, python, recipe, device)
    except BaseException:
        shutil.rmtree(engine, ignore_errors=True)
        raise
    (engine / COMPLETE).write_text(f"{time.time():.0f}\n")
    say(f"{recipe.title} is ready after {time.monotonic() - start:.0f} s")


def fill_engine(engine: Path, python: str, recipe: Recipe, device: str) -> None:
    """Make the engine environment and install everything in it."""
    log = Path(f"{engine}.log")
    log.write_text("")
    if stands_on_base(recipe, device):
        lay_over(engine, recipe, device, log)
        return
    run(python, "-m", "venv", engine, log=log)
    pip = (engine / "bin" / "python", "-m", "pip", "install", "--disable-pip-version-check", "--quiet")
    if device == "cpu":
        run(*pip, "--no-deps", "--requirement", recipe.requirements(device), log=log)
        with tempfile.TemporaryDirectory() as folder:
            for wheel in recipe.write_wheels(Path(folder)):
                run(*pip, "--no-deps", wheel, log=log)
        make_torch_load(engine / "bin" / "python", pip, log)
    else:
        run(*pip, "--requirement", recipe.requirements(device), log=log)
    run(*pip, "--no-deps", "--requirement", TOOLS, log=log)


def lay_over(engine: Path, recipe: Recipe, device: str, log: Path) -> None:
    """Make an environment of few packages over that of the recipe's base, which has the rest."""
    assert recipe.base is not None
    assert recipe.overlay is not None
    base_python, python = install_engine(recipe.base, device) / "bin" / "python", engine / "bin" / "python"
    run(base_python, "-m", "venv", "--without-pip", engine, log=log)
    pip = (base_python, "-m", "pip", "--python", python, "install", "--disable-pip-version-check", "--quiet")
    run(*pip, "--no-deps", "--require-hashes", "--requirement", recipe.requirements(device), log=log)
    packages, base_packages = package_folder(python), package_folder(base_python)
    recipe.overlay(packages, base_packages)
    (packages / "base.pth").write_text(f"import site; site.addsitedir({str(base_packages)!r})\n")


def package_folder(python: Path) -> Path:
    """Return where a Python's packages are."""
    return Path(capture(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))


def make_torch_load(python: Path, pip: Sequence[object], log: Path) -> None:
    """Where pip found only a CUDA build of torch, add the libraries which that build loads even without a GPU.

    A CPU build is half the size. pip takes it where it is offered (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL).
    """
    if subprocess.run([str(python), "-c", "import torch"], capture_output=True, check=False).returncode == 0:
        return
    say("pip found no CPU build of torch; adding the libraries of the CUDA build (about 3 GB more)")
    run(*pip, *capture(python, "-c", TORCH_LIBRARIES).splitlines(), log=log)
    run(python, "-c", "import torch", log=log)


def build_checkout(environment: Path, engine: Path, state: str, folders: Sequence[Path]) -> None:
    """Layer an environment over `engine` and install this checkout into it, editable; it imports from `folders` too.

    An environment over the same engine is kept and only brought up to date: a server may be running in it.
    """
    say(f"installing this checkout in {environment}")
    log = Path(f"{environment}.log")
    log.write_text("")
    engine_python, python = engine / "bin" / "python", environment / "bin" / "python"
    base = environment / "engine"
    if read(base) != str(engine):
        shutil.rmtree(environment, ignore_errors=True)
        run(engine_python, "-m", "venv", "--without-pip", environment, log=log)
        base.write_text(str(engine))
    packages, engine_packages = package_folder(python), package_folder(engine_python)
    lines = [f"import site; site.addsitedir({str(engine_packages)!r})", *map(str, folders)]
    (packages / "engine.pth").write_text("".join(f"{line}\n" for line in lines))
    pip = (
        engine_python,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--disable-pip-version-check",
        "--quiet",
    )
    run(*pip, "--no-deps", "--no-build-isolation", "--no-index", "--editable", CHECKOUT, log=log)
    (environment / COMPLETE).write_text(state)


if __name__ == "__main__":
    raise SystemExit(main())
