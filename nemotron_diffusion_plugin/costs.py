"""What a forward costs, by its rows and by the cached tokens it reads."""

from __future__ import annotations

import bisect
import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nemotron_diffusion_plugin.options import OptionError

Points = tuple[tuple[int, float], ...]
"""Rows of a forward, increasing, and its milliseconds."""

_FIELDS = ("causal", "bidirectional", "ms_per_kv_token", "eager_ms", "ms_per_mask")


@dataclass(frozen=True, slots=True)
class ForwardCosts:
    """Milliseconds of a forward: a piecewise linear function of its rows, and a share for every cached token.

    The two parts add up, as matrix products and attention run one after the other. Below the first point a forward
    costs what the first point says; after the last one it follows the slope of the last two.

    Attributes:
        causal: points of a verify forward.
        bidirectional: points of a draft forward.
        ms_per_kv_token: for each cached token of each request that takes part.
        eager_ms: what a forward takes at least that is launched kernel by kernel, where others replay a CUDA graph.
            None where it is not known, which counts as 0.
        ms_per_mask: of the host, for the mask of what a grammar allows after one position. None as above.
    """

    causal: Points
    bidirectional: Points
    ms_per_kv_token: float = 0.0
    eager_ms: float | None = None
    ms_per_mask: float | None = None

    def forward_ms(self, rows: int, kv_tokens: int, bidirectional: bool) -> float:
        """Return the milliseconds of a forward with so many rows and cached tokens; without rows there is none."""
        if rows <= 0:
            return 0.0
        points = self.bidirectional if bidirectional else self.causal
        return _interpolate(points, rows) + kv_tokens * self.ms_per_kv_token

    def completed_by(self, other: ForwardCosts) -> ForwardCosts:
        """Return these costs, with what is not known taken from the other ones."""
        eager = other.eager_ms if self.eager_ms is None else self.eager_ms
        mask = other.ms_per_mask if self.ms_per_mask is None else self.ms_per_mask
        return replace(self, eager_ms=eager, ms_per_mask=mask)

    @staticmethod
    def read(value: object) -> ForwardCosts:
        """Read a table: a JSON object, or the path of a file that holds one.

        The object: `causal`, a list of `[rows, ms]`; `bidirectional`, the same, `causal` where it is left out;
        `ms_per_kv_token`, 0 where it is left out; `eager_ms` and `ms_per_mask`, None where they are. Raises
        `OptionError` naming field, value and what is expected.
        """
        if isinstance(value, str):
            value = _load(Path(value))
        if not isinstance(value, Mapping):
            raise OptionError(
                f"field 'forward_costs': got {reprlib.repr(value)}, expected 'measured', 'arithmetic', a file's path "
                f"or a JSON object with {', '.join(_FIELDS)}"
            )
        unknown = [name for name in value if name not in _FIELDS]
        if unknown:
            raise OptionError(
                f"field 'forward_costs': unknown name {reprlib.repr(unknown[0])}, expected {', '.join(_FIELDS)}"
            )
        causal = _points("causal", value.get("causal"))
        drafts = _points("bidirectional", value["bidirectional"]) if "bidirectional" in value else causal
        per_token = _milliseconds("ms_per_kv_token", value.get("ms_per_kv_token", 0))
        rest = (_milliseconds(name, value[name]) if name in value else None for name in _FIELDS[3:])
        return ForwardCosts(causal, drafts, per_token, *rest)


def _interpolate(points: Points, rows: int) -> float:
    after = bisect.bisect_left(points, rows, key=_rows)
    if after == 0 or len(points) == 1:
        return points[0][1]
    (left, left_ms), (right, right_ms) = points[min(after, len(points) - 1) - 1 :][:2]
    slope = (right_ms - left_ms) / (right - left)
    return right_ms + (rows - right) * (slope if rows < right else max(0.0, slope))


def _rows(point: tuple[int, float]) -> int:
    return point[0]


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(
            f"field 'forward_costs': got '{path}', expected a file with a JSON object: {error}"
        ) from None


def _points(name: str, value: object) -> Points:
    if not isinstance(value, list | tuple) or not value:
        raise OptionError(
            f"field 'forward_costs.{name}': got {reprlib.repr(value)}, expected a list of [rows, milliseconds]"
        )
    points: list[tuple[int, float]] = []
    for point in value:
        if not isinstance(point, list | tuple) or len(point) != 2:
            raise OptionError(
                f"field 'forward_costs.{name}': got {reprlib.repr(point)}, expected [rows, milliseconds]"
            )
        rows, ms = point
        least = points[-1][0] + 1 if points else 1
        if isinstance(rows, bool) or not isinstance(rows, int) or not least <= rows <= 10**9:
            raise OptionError(
                f"field 'forward_costs.{name}': got {reprlib.repr(rows)} rows, expected an integer >= {least}: rows "
                "increase from point to point"
            )
        time = _milliseconds(name, ms)
        if not time:
            raise OptionError(f"field 'forward_costs.{name}': got 0 ms, expected a number above 0")
        points.append((rows, time))
    return tuple(points)


def _milliseconds(name: str, value: object) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= 1e6:  # type: ignore[operator]
        raise OptionError(
            f"field 'forward_costs.{name}': got {reprlib.repr(value)}, expected milliseconds from 0 to 1000000"
        )
    return float(value)  # type: ignore[arg-type]
