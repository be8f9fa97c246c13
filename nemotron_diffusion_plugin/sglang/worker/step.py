"""One engine step's requests, as the worker sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass
class DecodeStep:
    """A decode batch of R requests.

    Attributes:
        batch: SGLang's batch.
        slots: request slot of each row, host int64 `[R]`.
        index: the same on the device.
        computed: tokens with KV, which is the position of the seed, int64 `[R]` on the device.
        seeds: last token of each request, int64 `[R]` on the device.
    """

    batch: Any
    slots: np.ndarray
    index: torch.Tensor
    computed: torch.Tensor
    seeds: torch.Tensor

    @property
    def size(self) -> int:
        """Requests of the batch."""
        return len(self.slots)

    @property
    def reqs(self) -> list[Any]:
        """SGLang's requests, in the order of the rows."""
        return list(self.batch.reqs)


@dataclass
class StepCounts:
    """What a decode step did for each of its requests, kept until its result comes back; host arrays `[R]`.

    Attributes:
        reqs: SGLang's requests.
        modes: their decoding modes, by `DecodingMode.code`.
        drafted: draft forwards the request took part in.
        denoised: denoise forwards of the block that this step hands over.
        lengths: rows of the request in the verify forward, 0 for one that took no part.
        slots: their request slots.
        tenancies: what `HostLengths.verified` gave for them.
    """

    reqs: list[Any]
    modes: np.ndarray
    drafted: np.ndarray
    denoised: np.ndarray
    lengths: np.ndarray
    slots: np.ndarray
    tenancies: np.ndarray


def slots_of(batch: Any) -> np.ndarray:
    """The request slot of each request of SGLang's batch, int64 `[R]`.

    The batch's own list: a request that has just ended has lost its slot.
    """
    slots: np.ndarray = batch.req_pool_indices_cpu.numpy().astype(np.int64)
    return slots
