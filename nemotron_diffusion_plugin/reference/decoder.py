"""The reference decoder: what every engine must reproduce token for token (docs/model.md, 3)."""

import math
from collections.abc import Collection, Sequence
from pathlib import Path

import torch

from nemotron_diffusion_plugin.model.lora import DrafterLora
from nemotron_diffusion_plugin.options import DecodingMode, DecodingOptions
from nemotron_diffusion_plugin.reference import autoregressive, diffusion, self_speculation
from nemotron_diffusion_plugin.reference.model import ReferenceModel
from nemotron_diffusion_plugin.reference.quadratic import decode as decode_quadratic
from nemotron_diffusion_plugin.reference.request import Request
from nemotron_diffusion_plugin.reference.result import Generation, OnStep

_DECODE = {
    DecodingMode.AR: autoregressive.decode,
    DecodingMode.DIFFUSION: diffusion.decode,
    DecodingMode.SELF_SPECULATION: self_speculation.decode,
    DecodingMode.AUTO: self_speculation.decode,
}


class ReferenceDecoder:
    """Decodes one request at a time: its prompt, then its mode until it is finished."""

    def __init__(self, model: ReferenceModel, lora: DrafterLora | None = None) -> None:
        self.model = model
        self.lora = lora

    @classmethod
    def from_checkpoint(cls, folder: str | Path, dtype: torch.dtype = torch.float32) -> "ReferenceDecoder":
        """Read model and drafter LoRA; raises `CheckpointError` when the folder is incomplete or damaged."""
        model = ReferenceModel.from_checkpoint(folder, dtype)
        lora = DrafterLora.load(folder, model.config, dtype)
        return cls(model, None if lora is None else lora.requires_grad_(False))

    @torch.no_grad()
    def generate(
        self,
        prompt_ids: Sequence[int],
        max_new_tokens: int,
        options: DecodingOptions,
        *,
        temperature: float = 0.0,
        seed: int = 0,
        stop_token_ids: Collection[int] | None = None,
        ignore_eos: bool = False,
        min_tokens: int = 0,
        max_model_len: int | None = None,
        quadratic: bool = False,
        on_step: OnStep | None = None,
    ) -> Generation:
        """Decode `prompt_ids` in the mode of `options`.

        Args:
            prompt_ids: at least one id; the mask id among them is an ordinary token.
            max_new_tokens: at least 1.
            temperature: 0 is greedy.
            seed: of the noise at a temperature above 0; the same seed gives the same tokens.
            stop_token_ids: end the request when emitted; the config's end-of-sequence ids by default.
            ignore_eos: end at limits only.
            min_tokens: stop tokens before this many tokens do not end the request.
            max_model_len: most tokens of prompt and output; the config's max_position_embeddings by default.
            quadratic: decode by quadratic self-speculation, whatever the mode of `options`.
            on_step: called after every forward.

        Raises `ValueError` naming the argument, its value and what is allowed.
        """
        config = self.model.config
        limit = config.max_position_embeddings if max_model_len is None else max_model_len
        self._check(prompt_ids, max_new_tokens, temperature, limit)
        if stop_token_ids is None:
            eos = config.eos_token_id
            stop_token_ids = [] if eos is None else eos if isinstance(eos, list) else [eos]
        request = Request(
            self.model,
            self.lora,
            options,
            max_new_tokens=min(max_new_tokens, limit - len(prompt_ids)),
            max_model_len=limit,
            temperature=temperature,
            noise_seed=seed,
            stop_token_ids=frozenset() if ignore_eos else frozenset(stop_token_ids),
            min_tokens=min_tokens,
            on_step=on_step,
        )
        if quadratic:
            decode_quadratic(request, prompt_ids)
        else:
            request.prefill(prompt_ids)
            _DECODE[options.decoding_mode](request)
        return request.result

    def _check(
        self, prompt_ids: Sequence[int], max_new_tokens: int, temperature: float, max_model_len: int
    ) -> None:
        vocab_size = self.model.config.vocab_size
        if not 1 <= len(prompt_ids) < max_model_len:
            raise ValueError(f"prompt_ids: got {len(prompt_ids)} tokens, expected 1 to {max_model_len - 1}")
        outside = [token for token in prompt_ids if not 0 <= token < vocab_size]
        if outside:
            raise ValueError(f"prompt_ids: got the id {outside[0]}, expected ids below {vocab_size}")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: got {max_new_tokens}, expected at least 1")
        if not (math.isfinite(temperature) and temperature >= 0.0):
            raise ValueError(f"temperature: got {temperature}, expected a number >= 0")
