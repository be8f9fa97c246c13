"""`ModelRunner._decode_cuda_graph_runner_cls`: separate graphs for draft, verify and decode forwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Description
from nemotron_diffusion_patches.sglang import HookPatch, around

ABOUT = Description(
    name="cuda-graph-runner",
    targets=("sglang.srt.model_executor.model_runner.ModelRunner._decode_cuda_graph_runner_cls",),
    reason="SGLang captures one causal verify graph and would replay it for bidirectional drafts too",
    upstream="the method is made to be overridden, but a plugin cannot subclass the model runner",
    remove_when="a speculative algorithm can name its graph runner",
)


def patch(is_ours: Callable[[Any], bool], runner: Callable[[], type]) -> HookPatch:
    """`is_ours(spec_algorithm)` says whether our algorithm runs; `runner()` imports our graph runner."""

    def _decode_cuda_graph_runner_cls(original: Callable[..., Any], self: Any) -> Any:
        return runner() if is_ours(self.spec_algorithm) else original(self)

    return around(ABOUT, _decode_cuda_graph_runner_cls)
