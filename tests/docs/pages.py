"""The pages of the documentation, and what stands in them."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
PAGES = [
    *(CHECKOUT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "tests/README.md")),
    *sorted((CHECKOUT / "docs").glob("*.md")),
]

SOURCE_ROOTS = ("", "kernels/", "patches/")
"""Folders of the checkout that hold import packages."""

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    """The page's path in the checkout, to name its test by."""
    return str(page.relative_to(CHECKOUT))


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(text: str) -> list[tuple[str, str]]:
    """The language and the content of every fenced block."""
    return _FENCE.findall(text)


def prose(text: str) -> str:
    """The text without its fenced blocks."""
    return _FENCE.sub("", text)


def quoted(text: str) -> list[str]:
    """What stands in back quotes outside of fenced blocks."""
    return re.findall(r"`([^`]+)`", prose(text))


@cache
def contents() -> frozenset[str]:
    """The paths in the checkout of all files, and of the folders that hold some; no caches, no hidden folders."""
    found: set[str] = set()
    for folder, folders, names in os.walk(CHECKOUT):
        folders[:] = [one for one in folders if not one.startswith((".", "__pycache__"))]
        files = [(Path(folder) / name).relative_to(CHECKOUT) for name in names]
        found |= {path.as_posix() for file in files for path in (file, *file.parents)}
    return frozenset(found)


def module_file(name: str) -> str | None:
    """The path in the checkout of a module of ours, found without an import; None where there is none."""
    path = name.replace(".", "/")
    files = (f"{root}{path}{ending}" for root in SOURCE_ROOTS for ending in (".py", "/__init__.py"))
    return next((file for file in files if file in contents()), None)


def is_module(name: str) -> bool:
    """Whether a name is a module or a package of ours, with or without an `__init__.py`."""
    folders = (root + name.replace(".", "/") for root in SOURCE_ROOTS)
    return module_file(name) is not None or any(folder in contents() for folder in folders)


def commands(text: str) -> list[str]:
    """The command lines of fenced blocks and back quotes: continued lines joined, comments cut."""
    lines = [line for _, block in blocks(text) for line in block.replace("\\\n", " ").splitlines()]
    return [re.sub(r"\s#\s.*", "", line).strip() for line in [*lines, *quoted(text)]]
