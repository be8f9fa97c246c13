"""How far the host knows requests to have come, without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nemotron_diffusion_plugin.rules.block import block_lengths
from nemotron_diffusion_plugin.serving.slots import SlotTable
from nemotron_diffusion_plugin.sglang.worker.step import DecodeStep


class HostLengths:
    """Upper bounds of the tokens with KV by slot, exact for requests whose every row is accepted (AR, diffusion).

    A verify forward of n rows brings a request at most n tokens further. How many it was is on the device until
    SGLang reads the step's result, one step later; then the bound comes down to what the request has emitted.

    Host arrays `[N]` by slot: `_bounds`; `_unread`, the rows of steps whose result has not been read; `_is_read`,
    whether any has been, and so the prompt's too; `_tenancy`, how often the slot has been taken over.
    """

    def __init__(self, slots: int) -> None:
        self._bounds, self._unread, self._tenancy = (np.zeros(slots, dtype=np.int64) for _ in range(3))
        self._is_read = np.zeros(slots, dtype=bool)

    def prefilled(self, slots: np.ndarray, lengths: np.ndarray) -> None:
        """Note that requests have taken over slots, with `lengths` tokens of KV, host int64 `[R]`."""
        self._bounds[slots] = lengths
        self._unread[slots] = 0
        self._is_read[slots] = False
        self._tenancy[slots] += 1

    def verified(self, slots: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Note a step with a number of verify rows for each slot, `[R]`; return what `read` is told of it."""
        self._bounds[slots] += rows
        self._unread[slots] += rows
        return self._tenancy[slots].copy()

    def read(self, slots: np.ndarray, rows: np.ndarray, tenancies: np.ndarray) -> None:
        """Note that SGLang has read the result of the oldest step and added its tokens to the requests."""
        same = self._tenancy[slots] == tenancies  # the slot may be another request's by now
        self._unread[slots[same]] -= rows[same]
        self._is_read[slots[same]] = True

    def bounds(self, slots: np.ndarray, reqs: Sequence[Any]) -> np.ndarray:
        """Upper bounds of the requests' tokens with KV, int64 `[R]`: the position of the seed at most."""
        for slot, req in zip(slots, reqs, strict=True):
            # The output of a request that has ended may have been cut.
            if self._is_read[slot] and not (req.is_retracted or req.finished()):
                known = len(req.origin_input_ids) + len(req.output_ids) - 1
                self._bounds[slot] = min(self._bounds[slot], known + self._unread[slot])
        return self._bounds[slots]

    def starts(self, step: DecodeStep, table: SlotTable, max_model_len: int) -> np.ndarray:
        """The position of each seed of a step, host int64 `[R]`: exact, or a bound where nothing depends on it.

        Waits for the device where a bound would cut a block short that may have room.
        """
        slots, given = step.slots, step.batch.seq_lens_cpu
        if given is None:
            starts, longest = self.bounds(slots, step.reqs), table.longest[slots]
            is_cut = block_lengths(starts, longest, max_model_len) < longest
            if not (is_cut & ~table.is_diffusion(slots)).any():
                return starts
            given = step.computed.cpu()
        starts = given.numpy().astype(np.int64)
        self._bounds[slots] = starts
        return starts
