"""What both engines share knows neither of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from nemotron_diffusion_plugin import serving

ENGINES = ("vllm", "sglang", "nemotron_diffusion_plugin.vllm", "nemotron_diffusion_plugin.sglang")
[FOLDER] = serving.__path__
MODULES = sorted(Path(FOLDER).glob("*.py"))


def imported(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)
def test_imports_no_engine(module: Path) -> None:
    names = list(imported(module))
    assert [name for name in names if name.startswith(tuple(f"{engine}." for engine in ENGINES))] == []
    assert not set(names) & set(ENGINES)
