"""What is said where an optional package is missing works: the extras exist and bring it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nemotron_diffusion_plugin.tools.extras import EXTRAS, how_to_install, missing, require

PYPROJECT = (Path(__file__).parents[2] / "pyproject.toml").read_text()


@pytest.mark.parametrize(("module", "extra"), EXTRAS.items())
def test_every_extra_is_declared_and_brings_its_module(module: str, extra: str) -> None:
    [packages] = re.findall(rf"^{extra} = \[(.+)\]$", PYPROJECT, re.MULTILINE)
    assert re.search(rf'"{module}[>=<]', packages)
    assert f"{module} is not installed; pip install '.[{extra}]' in a checkout" in missing(module)


def test_a_base_dependency_comes_with_the_package_itself() -> None:
    assert missing("transformers").startswith("transformers is not installed; pip install . in a checkout")
    assert how_to_install() == "pip install . in a checkout of nemotron-diffusion-plugin"


def test_what_is_installed_is_not_complained_about() -> None:
    require("json", "typer")
    with pytest.raises(ValueError, match="no_such_module is not installed"):
        require("json", "no_such_module")


def test_no_text_names_a_release_that_does_not_exist() -> None:
    root = Path(__file__).parents[2]
    for folder in ("nemotron_diffusion_plugin", "tests/engines", "docs", "benchmarks"):
        for path in (root / folder).rglob("*.[pm][yd]"):
            assert "pip install 'nemotron" not in path.read_text(encoding="utf-8"), path
