"""Set up the environment of the clients, and print the path of its Python.

It lies beside the engines' ones, whose packages the clients would change, and is made the way they are
(`tests/engines/install.py`): named by a hash of all that decides its content, under a lock, complete by its last step.
Nothing of this checkout is in it.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import time
from pathlib import Path

from tests.engines.commands import lock, run, say
from tests.engines.install import COMPLETE, cache_folder, find_python

REQUIREMENTS = Path(__file__).resolve().parent / "requirements.txt"
PYTHONS = ("3.11", "3.12", "3.13")


def install() -> Path:
    """Make the environment exist and return its Python.

    Raises:
        SetupError: there is no Python for it, or a package cannot be installed.
    """
    executable, version = find_python(PYTHONS)
    environment = cache_folder() / name(version)
    with lock(environment):
        if not (environment / COMPLETE).exists():
            build(environment, executable)
    return environment / "bin" / "python"


def name(python_version: str) -> str:
    """Return the environment's name; it changes with the machine, the Python and every requirement."""
    content = hashlib.sha256(platform.machine().encode() + REQUIREMENTS.read_bytes())
    return f"clients-py{python_version}-{content.hexdigest()[:12]}"


def build(environment: Path, executable: str) -> None:
    """Build the environment from nothing and mark it complete."""
    start = time.monotonic()
    say(f"setting up the clients in {environment} (once; about 1.7 GB, some minutes)")
    shutil.rmtree(environment, ignore_errors=True)
    log = Path(f"{environment}.log")
    log.write_text("")
    run(executable, "-m", "venv", environment, log=log)
    pip = (environment / "bin" / "python", "-m", "pip", "install", "--disable-pip-version-check", "--quiet")
    run(*pip, "--requirement", REQUIREMENTS, log=log)
    (environment / COMPLETE).write_text(f"{time.time():.0f}\n")
    say(f"the clients are ready after {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    print(install())
