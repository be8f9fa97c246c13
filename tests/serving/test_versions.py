"""Which versions of an engine are accepted."""

from __future__ import annotations

import pytest

from nemotron_diffusion_plugin.serving.versions import problem


@pytest.mark.parametrize(
    "installed", ["0.5.23", "0.5.23.post1", "0.5.23+cpu", "0.5.23rc1", "0.5.23.dev3+g12ab"]
)
def test_supported(installed: str) -> None:
    assert problem("SGLang", ">=0.5.23,<0.5.24", installed) is None


@pytest.mark.parametrize("installed", ["0.5.22", "0.5.24", "0.5.24rc1", "1.0"])
def test_unsupported_names_the_engine_and_both_versions(installed: str) -> None:
    assert problem("SGLang", ">=0.5.23,<0.5.24", installed) == (
        f"SGLang {installed} is installed, but this version of nemotron_diffusion_plugin supports SGLang "
        ">=0.5.23,<0.5.24"
    )
