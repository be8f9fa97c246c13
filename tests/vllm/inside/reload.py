"""Reloads weights by RPC, as offline users and trainers in the same process do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from vllm import LLM, SamplingParams

from tests.vllm.inside.refusals import ALWAYS

PROMPT = [300, 400, 500, 310, 320]
TOKENS = 40
MODES = ("ar", "self_speculation", "diffusion")


def observe(folder: str, other: str, names: list[list[str]]) -> dict[str, Any]:
    """The tokens of every mode at first, after a reload of `folder`, and after each group of tensors of `other`.

    For a group that was refused what was said stands beside its tokens.
    """
    llm = LLM(folder, **ALWAYS, enable_prefix_caching=False)
    params = {"temperature": 0, "max_tokens": TOKENS, "ignore_eos": True}

    def tokens() -> list[list[int]]:
        prompts: Any = [{"prompt_token_ids": PROMPT}] * len(MODES)
        modes = [SamplingParams(**params, extra_args={"decoding_mode": mode}) for mode in MODES]
        return [list(output.outputs[0].token_ids) for output in llm.generate(prompts, modes, use_tqdm=False)]

    result: dict[str, Any] = {"first": tokens()}
    llm.collective_rpc("reload_weights")
    result["reloaded"] = tokens()
    tensors = load_file(Path(other) / "model.safetensors")
    result["updated"] = []
    for group in names:
        said = None
        try:
            some = [(name, tensors[name]) for name in group]
            llm.collective_rpc("reload_weights", kwargs={"weights_iterator": some})
        except ValueError as error:
            said = str(error)
        result["updated"].append([tokens(), said])
    return result
