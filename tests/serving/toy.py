"""A bidirectional forward in plain torch over random weights, and requests in a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from nemotron_diffusion_plugin.core import BlockRows, Blocks, Request, lay_out_rows, split
from nemotron_diffusion_plugin.serving.slots import SlotTable
from nemotron_diffusion_plugin.settings import ServerSettings

VOCAB = 40
MASK = 17
BLOCK = 8
SLOTS = 6
POSITIONS = 72
DIFFUSION = {"decoding_mode": "diffusion"}
SHARPNESS = 2.0
NO_STOP = VOCAB  # a token the toy never picks


def make_table() -> SlotTable:
    return SlotTable(ServerSettings.read(BLOCK, None), SLOTS, MASK, torch.device("cpu"))


def take(
    table: SlotTable,
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
        Request(
            table.settings.options(options),
            prompt_len,
            limit=POSITIONS,
            temperature=temperature,
            min_tokens=min_tokens,
            stop_ids=stop_ids,
            logprobs=logprobs,
            named_logprobs=named_logprobs,
        ),
    )


@dataclass
class Pass:
    """One forward that has run."""

    slots: list[int]
    tokens: list[int]
    lora: list[int] | None


@dataclass
class ToyOutput:
    """Logits that were computed already; `sizes` are those of the parts that were asked for."""

    all_logits: torch.Tensor
    hidden: torch.Tensor | None = None
    sizes: list[int] = field(default_factory=list)

    def logits(self, rows: slice) -> torch.Tensor:
        part = self.all_logits[rows].clone()
        self.sizes.append(len(part))
        return part


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

    def chunks(self, lengths: np.ndarray) -> Iterator[slice]:
        return split(lengths, self.max_tokens)

    def prepare(self, blocks: Blocks, causal: bool) -> BlockRows:
        assert not causal
        assert blocks.lengths.tolist() == blocks.lengths_gpu.tolist()
        assert (blocks.starts <= torch.from_numpy(blocks.start_bounds)).all()
        assert int((blocks.starts + blocks.lengths_gpu).max()) <= blocks.end_bound
        self.prepared += 1
        self._slots = blocks.index.tolist()
        return lay_out_rows(blocks)

    def run(
        self,
        blocks: BlockRows,
        token_ids: torch.Tensor,
        lora_rows: torch.Tensor | None = None,
        hidden: bool = False,
    ) -> ToyOutput:
        self.count += 1
        lora = None if lora_rows is None else lora_rows[:, 0].int().tolist()
        self.passes.append(Pass(self._slots, token_ids.tolist(), lora))
        output = self.by_position[blocks.positions].clone()
        for begin, end in zip(blocks.offsets[:-1], blocks.offsets[1:], strict=True):
            output[begin:end] += self.by_token[token_ids[begin:end]].mean(dim=0)
        return ToyOutput(output if lora_rows is None else output + lora_rows * self.by_lora)

    def of_block(self, tokens: torch.Tensor, start: int, lora: bool = False) -> torch.Tensor:
        """The logits `[B, V]` of one block alone, beside no forward that is counted."""
        logits = self.by_position[start : start + len(tokens)] + self.by_token[tokens].mean(dim=0)
        return logits + lora * self.by_lora
