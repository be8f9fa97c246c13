"""A bidirectional forward in plain torch over random weights, and requests in a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from nemotron_diffusion_plugin.core import BlockRows, lay_out_rows
from nemotron_diffusion_plugin.serving.slots import RequestTable
from nemotron_diffusion_plugin.settings import ServerSettings

VOCAB = 40
MASK = 17
BLOCK = 8
SLOTS = 6
POSITIONS = 72
DIFFUSION = {"decoding_mode": "diffusion"}
SHARPNESS = 2.0
NO_STOP = VOCAB  # a token the toy never picks


def make_table() -> RequestTable:
    return RequestTable(ServerSettings.read(BLOCK, None), SLOTS, MASK, torch.device("cpu"))


def take(
    table: RequestTable,
    slot: int,
    options: dict[str, object] | None = None,
    *,
    prompt_len: int = 10,
    temperature: float = 0.0,
    min_tokens: int = 0,
    stop_ids: tuple[int, ...] = (NO_STOP,),
    logprobs: int | None = None,
    named_logprobs: tuple[int, ...] = (),
) -> None:
    table.take(
        slot,
        table.settings.options(options),
        prompt_len=prompt_len,
        limit=POSITIONS,
        temperature=temperature,
        min_tokens=min_tokens,
        stop_ids=stop_ids,
        logprobs=logprobs,
        named_logprobs=named_logprobs,
    )


@dataclass
class Pass:
    """One forward that has run."""

    slots: list[int]
    tokens: list[int]
    lora: list[int] | None


class ToyForward:
    """Every token sees its whole block: logits depend on its position and on all tokens beside it."""

    def __init__(self, max_tokens: int = 1 << 20) -> None:
        generator = torch.Generator().manual_seed(3)
        self.dtype, self.vocab_size, self.count = torch.float32, VOCAB, 0
        self.max_tokens = max_tokens
        self.by_position = torch.randn(POSITIONS, VOCAB, generator=generator) * SHARPNESS
        self.by_token = torch.randn(VOCAB, VOCAB, generator=generator) * 3 * SHARPNESS
        self.by_lora = torch.randn(VOCAB, generator=generator) * SHARPNESS
        self.passes: list[Pass] = []
        self.prepared = 0
        self._slots: list[int] = []

    def chunks(self, rows: np.ndarray) -> Iterator[slice]:
        start = 0
        for end in range(1, len(rows) + 1):
            if end == len(rows) or rows[start : end + 1].sum() > self.max_tokens:
                yield slice(start, end)
                start = end

    def prepare(
        self,
        slots: np.ndarray,
        index: torch.Tensor,
        starts: torch.Tensor,
        rows: np.ndarray,
        upper_bound: int,
        causal: bool,
    ) -> BlockRows:
        assert not causal
        assert slots.tolist() == index.tolist()
        assert ((starts + torch.from_numpy(rows)) <= upper_bound).all()
        self.prepared += 1
        self._slots = slots.tolist()
        return lay_out_rows(rows, starts, torch.from_numpy(rows).long())

    def run(
        self, blocks: BlockRows, token_ids: torch.Tensor, lora_rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        self.count += 1
        lora = None if lora_rows is None else lora_rows[:, 0].int().tolist()
        self.passes.append(Pass(self._slots, token_ids.tolist(), lora))
        output = self.by_position[blocks.positions].clone()
        for begin, end in zip(blocks.offsets[:-1], blocks.offsets[1:], strict=True):
            output[begin:end] += self.by_token[token_ids[begin:end]].mean(dim=0)
        return output if lora_rows is None else output + lora_rows * self.by_lora

    def logits(self, output: torch.Tensor) -> torch.Tensor:
        return output.clone()

    def of_block(self, tokens: torch.Tensor, start: int, lora: bool = False) -> torch.Tensor:
        """The logits `[B, V]` of one block alone, beside no forward that is counted."""
        logits = self.by_position[start : start + len(tokens)] + self.by_token[tokens].mean(dim=0)
        return logits + lora * self.by_lora
