"""One request of the reference decoder: its cache, its seed, its limits and how it picks tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from nemotron_diffusion_plugin.model.lora import DrafterLora
from nemotron_diffusion_plugin.options import DecodingOptions
from nemotron_diffusion_plugin.reference import masks
from nemotron_diffusion_plugin.reference.model import KeysValues, KeyValueCache, ReferenceModel
from nemotron_diffusion_plugin.reference.result import ForwardKind, Generation, OnStep, Step
from nemotron_diffusion_plugin.rules.block import block_lengths
from nemotron_diffusion_plugin.rules.noise import uniform
from nemotron_diffusion_plugin.rules.pick import pick
from nemotron_diffusion_plugin.rules.stop import trim

SHARED_NOISE = 0
"""The noise step of causal picks and of drafts; denoise steps count from 1."""


@dataclass
class Request:
    """The state that every mode shares; `seed` is the last token a causal forward picked, not cached yet.

    Noise is drawn per absolute position of the picked token. At T > 0 a draft, its verify and the AR step of
    the same position share their noise, so self-speculation emits exactly the tokens of AR; denoise steps
    draw their own.
    """

    model: ReferenceModel
    lora: DrafterLora | None
    options: DecodingOptions
    max_new_tokens: int
    max_model_len: int
    temperature: float = 0.0
    noise_seed: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    min_tokens: int = 0
    on_step: OnStep | None = None
    cache: KeyValueCache = field(default_factory=KeyValueCache)
    seed: int = -1
    result: Generation = field(default_factory=Generation)

    @property
    def finished(self) -> bool:
        """Whether a stop token or a limit was reached."""
        return self.result.finish_reason is not None

    @property
    def block_length(self) -> int:
        """The next block's length: the block and its bonus fit into max_model_len; 1 is a causal step."""
        return int(block_lengths(self.cache.length, self.options.block_size, self.max_model_len))

    def prefill(self, prompt: Sequence[int]) -> None:
        """Cache the prompt and emit the seed that its last row predicts (docs/model.md, 3)."""
        tokens, count = torch.tensor([list(prompt)]), len(prompt)
        hidden, keys_values = self.model(tokens, torch.arange(count), masks.causal(count), return_hidden=True)
        self.cache.append(keys_values)
        logits = self.model.diffusion_head(hidden[0, -1:])
        self.emit(*self.pick_causal(logits, first_position=count))
        self.report("prefill", torch.tensor([self.seed]))

    def bidirectional(self, block: torch.Tensor, lora: DrafterLora | None = None) -> torch.Tensor:
        """D(x): logits `[n, V]` for int64 `block` `[n]`; row i predicts token i, nothing is cached."""
        start, count = self.cache.length, block.shape[0]
        positions = torch.arange(start, start + count)
        logits, _ = self.model(block[None], positions, masks.bidirectional(count, start), self.cache, lora)
        return logits[0]

    def causal(self, block: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, KeysValues]:
        """C(x): the token picked after each position of `block` `[n]`, their confidences, and the new KV."""
        start, count = self.cache.length, block.shape[0]
        positions = torch.arange(start, start + count)
        logits, keys_values = self.model(block[None], positions, masks.causal(count, start), self.cache)
        self.result.verify_forwards += 1
        return *self.pick_causal(logits[0], first_position=start + 1), keys_values

    def causal_step(self) -> None:
        """Cache the seed and emit the next one: one token for one forward."""
        picked, confidence, keys_values = self.causal(torch.tensor([self.seed]))
        self.cache.append(keys_values)
        self.emit(picked, confidence)
        self.report("verify", picked)

    def pick_causal(self, logits: torch.Tensor, first_position: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Pick like ordinary AR decoding, from the whole vocabulary: tokens `[n]` and confidences `[n]`."""
        return self._pick(logits, None, first_position, SHARED_NOISE)

    def pick_masked(
        self, logits: torch.Tensor, first_position: int, noise_step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pick for the positions of a block, never the mask id: tokens `[n]` and confidences `[n]`."""
        return self._pick(logits, self.model.config.mask_token_id, first_position, noise_step)

    def emit(self, tokens: torch.Tensor, confidence: torch.Tensor) -> None:
        """Append tokens and their confidences up to a stop token or a limit; the last token becomes the seed."""
        result = self.result
        kept, result.finish_reason = trim(
            tokens.tolist(), self.stop_token_ids, self.max_new_tokens, self.min_tokens, len(result.token_ids)
        )
        result.token_ids += kept
        result.confidences += confidence[: len(kept)].tolist()
        self.seed = int(tokens[-1])

    def is_stop(self, block: torch.Tensor) -> torch.Tensor:
        """Where a token of the block would end the request, bool `[n]`; the seed is emitted already."""
        number = len(self.result.token_ids) + torch.arange(block.shape[0])
        stop_ids = torch.tensor(sorted(self.stop_token_ids), dtype=torch.int64)
        return torch.isin(block, stop_ids) & (number >= self.min_tokens)

    def report(self, forward: ForwardKind, tokens: torch.Tensor, masked: torch.Tensor | None = None) -> None:
        """Show a viewer the block after a forward."""
        if self.on_step is not None:
            waiting = [False] * tokens.shape[0] if masked is None else masked.tolist()
            self.on_step(Step(forward, tokens.tolist(), waiting, list(self.result.token_ids)))

    def _pick(
        self, logits: torch.Tensor, mask_token_id: int | None, first_position: int, noise_step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.temperature == 0.0:
            return pick(logits, mask_token_id)
        rows, vocab = logits.shape
        seed = torch.full((rows,), self.noise_seed, dtype=torch.int64)
        position = torch.arange(first_position, first_position + rows)
        step = torch.full((rows,), noise_step, dtype=torch.int64)
        temperature = torch.full((rows,), self.temperature, dtype=torch.float64)
        return pick(
            logits,
            mask_token_id,
            temperature,
            lambda chunk: uniform(seed[chunk], position[chunk], step[chunk], vocab),
        )
