"""How SGLang is installed. Its compiled kernels have no CPU build; `standin/` replaces them."""

from __future__ import annotations

from tests.engines.recipe import Recipe

USUAL = "0.5.23"
OTHERS: dict[str, Recipe] = {}
RECIPE = Recipe(
    engine="sglang",
    title="SGLang",
    revision="1",
    cpu_pythons=("3.11",),
    gpu_pythons=("3.11", "3.12", "3.13", "3.10"),
    cpu_folder="standin",
)
