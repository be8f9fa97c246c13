"""The wheel that gives the CPU build the name `vllm`."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from tests.engines.vllm.alias_wheel import write_alias_wheel


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
