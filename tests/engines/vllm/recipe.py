"""How vLLM is installed."""

from __future__ import annotations

from tests.engines.recipe import Recipe
from tests.engines.vllm.alias_wheel import write_alias_wheel
from tests.engines.vllm.overlay import lay_over

USUAL = "0.32"
RECIPE = Recipe(
    engine="vllm",
    title="vLLM",
    revision="1",
    cpu_pythons=("3.11",),
    gpu_pythons=("3.11", "3.12", "3.13", "3.10"),
    write_wheels=lambda folder: [write_alias_wheel(folder)],
)
OTHERS = {
    # Until there is a build for a CPU.
    "0.33": Recipe(
        engine="vllm",
        title="vLLM 0.33",
        revision="1",
        cpu_pythons=RECIPE.cpu_pythons,
        gpu_pythons=RECIPE.gpu_pythons,
        version="0.33",
        base=RECIPE,
        overlay=lay_over,
    ),
}
