"""How far the host knows requests to have come, without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class HostLengths:
    """Upper bounds of the tokens with KV by slot, exact for requests whose every row is accepted (AR, diffusion).

    A verify forward of n rows brings a request at most n tokens further. How many it was is on the device until
    SGLang reads the step's result, one step later; then the bound comes down to what the request has emitted.
    """

    def __init__(self, slots: int) -> None:
        self._bounds = np.zeros(slots, dtype=np.int64)
        self._unread = np.zeros(slots, dtype=np.int64)  # rows of steps whose result has not been read
        self._is_read = np.zeros(
            slots, dtype=bool
        )  # whether a result has been read, so that the prompt's has been too
        self._tenancy = np.zeros(slots, dtype=np.int64)

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

    def correct(self, slots: np.ndarray, lengths: np.ndarray) -> None:
        """Take exact lengths, host int64 `[R]`, read from the device."""
        self._bounds[slots] = lengths
