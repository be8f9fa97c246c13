"""All numbers of one roofline in one object, to be printed, drawn or written as JSON."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from nemotron_diffusion_plugin.model.forward_cost import (
    KV_BYTES,
    ForwardCost,
    Precision,
    forward_cost,
    free_requests,
    memory_needed,
)
from nemotron_diffusion_plugin.model.hardware import Gpu
from nemotron_diffusion_plugin.model.shapes import ModelShape
from nemotron_diffusion_plugin.tools.roofline.methods import Assumptions, Method, methods
from nemotron_diffusion_plugin.tools.roofline.points import MOST, Point

SCHEMA = "nemotron-diffusion/roofline/1"
CAUTIOUS_COMPUTE = 0.75
"""The share of the FLOP/s assumed for the lower end of where a block stops being free: GEMMs do not reach the peak."""


@dataclass(frozen=True)
class Setting:
    """What a roofline is computed for: a model on a card, at every pair of a context and a concurrency."""

    shape: ModelShape
    gpu: Gpu
    contexts: tuple[int, ...] = (0, 8192)
    concurrencies: tuple[int, ...] = (1, 4, 16, 64)
    assumed: Assumptions = field(default_factory=Assumptions)
    precision: Precision = field(default_factory=Precision)
    efficiency: float = 1.0
    compute_efficiency: float = 1.0

    def __post_init__(self) -> None:
        for option, value in (
            ("--efficiency", self.efficiency),
            ("--compute-efficiency", self.compute_efficiency),
        ):
            if not 0.001 <= value <= 1.0:
                raise ValueError(f"{option}: got {value}, expected a share from 0.001 to 1")
        for option, values, least in (
            ("--context", self.contexts, 0),
            ("--concurrency", self.concurrencies, 1),
        ):
            for value in values:
                if not least <= value <= MOST:
                    raise ValueError(f"{option}: got {value}, expected {least} to {MOST}")

    @property
    def reached(self) -> Gpu:
        """The card at the assumed efficiencies."""
        return self.gpu.at(self.efficiency, self.compute_efficiency)

    @property
    def methods(self) -> list[Method]:
        """The methods compared."""
        return methods(self.shape, self.assumed)

    def ceiling(self, method: Method, context: int, concurrency: int) -> float:
        """Return the most tokens per second of a method."""
        return method.tokens_per_second(context, concurrency, self.precision, self.reached)

    def fits(self, context: int, concurrency: int) -> bool:
        """Whether weights and KV cache fit into the card's memory, as far as its size is known."""
        limit = self.gpu.memory_gb
        needed = memory_needed(self.shape, context, concurrency, self.precision)
        return limit is None or needed <= limit * 1e9


@dataclass(frozen=True)
class ForwardRow:
    """One forward of `rows` rows per request: its cost and its times in seconds."""

    context: int
    concurrency: int
    rows: int
    cost: ForwardCost
    memory_time: float
    compute_time: float
    floor_time: float

    @property
    def bound(self) -> str:
        """What limits the forward."""
        return "memory" if self.memory_time >= self.compute_time else "compute"


@dataclass(frozen=True)
class CeilingRow:
    """Cycle seconds and tokens per second of every method at one context and concurrency."""

    context: int
    concurrency: int
    fits: bool
    cycle_time: dict[str, float]
    tokens_per_second: dict[str, float]


@dataclass(frozen=True)
class FreeRow:
    """Up to how many requests a block is free, at the efficiencies given and with `CAUTIOUS_COMPUTE` of the FLOP/s."""

    context: int
    block: int
    requests: float
    cautious_requests: float


@dataclass(frozen=True)
class MeasuredRow:
    """A measured point beside its ceiling in tokens per second."""

    point: Point
    ceiling: float

    @property
    def share(self) -> float:
        """The share of the ceiling that was reached."""
        return self.point.tokens_per_second / self.ceiling


@dataclass(frozen=True)
class Report:
    """A computed roofline."""

    setting: Setting
    forwards: list[ForwardRow]
    ceilings: list[CeilingRow]
    free: list[FreeRow]
    measured: list[MeasuredRow]


def make_report(setting: Setting, points: Sequence[Point] = ()) -> Report:
    """Compute everything.

    Raises:
        ValueError: a measured point of a method that is not part of this roofline.
    """
    pairs = [(context, requests) for context in setting.contexts for requests in setting.concurrencies]
    block = setting.assumed.block_size
    blocks = sorted({block, *(size for size in (8, 16, 32) if size < block)})
    return Report(
        setting=setting,
        forwards=[_forward(setting, *pair, rows) for pair in pairs for rows in (1, block)],
        ceilings=[_ceiling(setting, *pair) for pair in pairs],
        free=[_free(setting, context, size) for context in setting.contexts for size in blocks],
        measured=[_measured(setting, point) for point in points],
    )


def report_json(report: Report) -> dict[str, Any]:
    """Return a report as plain JSON values: bytes, FLOPs, seconds, tokens per second; null for "without limit"."""
    setting = report.setting
    shape, network = setting.shape, setting.shape.network
    cost = forward_cost(network, 1, 0, 1, setting.precision)
    return {
        "schema": SCHEMA,
        "computed": "ceilings from arithmetic; only what is under 'measured' was measured",
        "model": {
            **asdict(shape),
            "parameters": shape.parameters,
            "weight_bytes_per_forward": cost.weight_bytes,
            "kv_bytes_per_token": shape.kv_per_token * KV_BYTES[setting.precision.kv],
        },
        "gpu": asdict(setting.gpu),
        "efficiency": setting.efficiency,
        "compute_efficiency": setting.compute_efficiency,
        "precision": asdict(setting.precision),
        "assumptions": asdict(setting.assumed),
        "forwards": [
            {**asdict(row), "bytes": row.cost.bytes, "flops": row.cost.flops, "bound": row.bound}
            for row in report.forwards
        ],
        "ceilings": [asdict(row) for row in report.ceilings],
        "free_block": [
            {
                **asdict(row),
                "requests": _finite(row.requests),
                "cautious_requests": _finite(row.cautious_requests),
            }
            for row in report.free
        ],
        "measured": [
            {**asdict(row.point), "ceiling": row.ceiling, "share": row.share} for row in report.measured
        ],
    }


def _forward(setting: Setting, context: int, concurrency: int, rows: int) -> ForwardRow:
    cost = forward_cost(setting.shape.network, rows, context, concurrency, setting.precision)
    gpu = setting.reached
    times = cost.memory_time(gpu), cost.compute_time(gpu), cost.floor_time(gpu)
    return ForwardRow(context, concurrency, rows, cost, *times)


def _ceiling(setting: Setting, context: int, concurrency: int) -> CeilingRow:
    precision, gpu = setting.precision, setting.reached
    return CeilingRow(
        context=context,
        concurrency=concurrency,
        fits=setting.fits(context, concurrency),
        cycle_time={m.name: m.cycle_time(context, concurrency, precision, gpu) for m in setting.methods},
        tokens_per_second={m.name: setting.ceiling(m, context, concurrency) for m in setting.methods},
    )


def _free(setting: Setting, context: int, block: int) -> FreeRow:
    network, precision, gpu = setting.shape.network, setting.precision, setting.reached
    cautious = setting.gpu.at(setting.efficiency, setting.compute_efficiency * CAUTIOUS_COMPUTE)
    return FreeRow(
        context,
        block,
        free_requests(network, block, context, precision, gpu),
        free_requests(network, block, context, precision, cautious),
    )


def _measured(setting: Setting, point: Point) -> MeasuredRow:
    for method in setting.methods:
        if method.name == point.method:
            return MeasuredRow(point, setting.ceiling(method, point.context, point.concurrency))
    raise ValueError(f"--measured: a point of '{point.method}' needs --tpf, which says what its ceiling is")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
