"""How vLLM is installed."""

from __future__ import annotations

from tests.engines.recipe import Recipe
from tests.engines.vllm.alias_wheel import write_alias_wheel

RECIPE = Recipe(
    engine="vllm",
    title="vLLM",
    revision="1",
    cpu_pythons=("3.11",),
    gpu_pythons=("3.11", "3.12", "3.13", "3.10"),
    write_wheels=lambda folder: [write_alias_wheel(folder)],
)
