"""Bytes and FLOPs of one forward, and the least time a GPU needs for them.

A floor counts only what no implementation can avoid: the matrices once, the cached keys and values of every request
once, one embedding row per query row; two FLOPs per matrix value and row, and the attention of every row to the cache.
Written KV, activations, logits, norms, sampling, launches and the host are not counted.
"""

import math
from dataclasses import dataclass

from nemotron_diffusion_plugin.model.hardware import Gpu
from nemotron_diffusion_plugin.model.shapes import ModelShape, Network

WEIGHT_BYTES = {"bf16": 2.0, "fp8": 1.0, "int4": 0.5 + 2.0 / 128}
"""Bytes per value in the layers' matrices; int4 has one 16-bit scale for 128 values."""
KV_BYTES = {"bf16": 2.0, "fp8": 1.0}
_KEPT_BYTES = 2.0  # embedding and head stay in 16 bits, as in published quantised checkpoints


@dataclass(frozen=True)
class Precision:
    """Names of the dtypes of the layers' matrices (a key of `WEIGHT_BYTES`) and of the KV cache (of `KV_BYTES`)."""

    weights: str = "bf16"
    kv: str = "bf16"

    def __post_init__(self) -> None:
        for option, value, known in (
            ("--weight-dtype", self.weights, WEIGHT_BYTES),
            ("--kv-dtype", self.kv, KV_BYTES),
        ):
            if value not in known:
                raise ValueError(f"{option}: got '{value}', expected {', '.join(known)}")


@dataclass(frozen=True)
class ForwardCost:
    """What one forward of a whole batch reads (bytes) and computes (FLOPs; only the layers' in the weights' dtype)."""

    weight_bytes: float
    kv_bytes: float
    embedding_bytes: float
    layer_flops: float
    other_flops: float
    fp8: bool

    @property
    def bytes(self) -> float:
        """All bytes read."""
        return self.weight_bytes + self.kv_bytes + self.embedding_bytes

    @property
    def flops(self) -> float:
        """All FLOPs."""
        return self.layer_flops + self.other_flops

    def memory_time(self, gpu: Gpu) -> float:
        """Seconds to read the bytes."""
        return self.bytes / (gpu.bandwidth * 1e12)

    def compute_time(self, gpu: Gpu) -> float:
        """Seconds to compute the FLOPs: layers at the fp8 speed where weights are fp8, everything else at bf16."""
        layers = gpu.fp8_tflops if self.fp8 else gpu.tflops
        return self.layer_flops / (layers * 1e12) + self.other_flops / (gpu.tflops * 1e12)

    def floor_time(self, gpu: Gpu) -> float:
        """Seconds the forward takes at least: reading and computing overlap perfectly."""
        return max(self.memory_time(gpu), self.compute_time(gpu))


def forward_cost(
    network: Network, rows: float, context: int, concurrency: float, precision: Precision
) -> ForwardCost:
    """Return the cost of one forward of `rows` query rows for each of `concurrency` requests.

    `context` cached tokens per request; the attention of the rows among themselves is not counted.
    """
    all_rows = rows * concurrency
    return ForwardCost(
        weight_bytes=network.layers * WEIGHT_BYTES[precision.weights] + network.head * _KEPT_BYTES,
        kv_bytes=network.kv * KV_BYTES[precision.kv] * context * concurrency,
        embedding_bytes=network.hidden * _KEPT_BYTES * all_rows,
        layer_flops=2.0 * network.layers * all_rows,
        other_flops=(2.0 * network.head + float(network.attention) * context) * all_rows,
        fp8=precision.weights == "fp8",
    )


def free_requests(network: Network, rows: int, context: int, precision: Precision, gpu: Gpu) -> float:
    """Return up to how many concurrent requests a forward of `rows` rows each is free.

    Free means that it is still limited by memory, so that it costs what a forward of one row costs. The number is where
    the time to compute reaches the time to read; both are linear in the requests. `math.inf` where that never happens.
    """
    fixed = forward_cost(network, rows, context, 0, precision).memory_time(gpu)
    one = forward_cost(network, rows, context, 1, precision)
    growth = one.compute_time(gpu) - (one.memory_time(gpu) - fixed)
    return fixed / growth if growth > 0.0 else math.inf


def memory_needed(shape: ModelShape, context: int, concurrency: int, precision: Precision) -> float:
    """Return the bytes that weights and KV cache occupy."""
    weights = shape.layer_matrices * WEIGHT_BYTES[precision.weights]
    weights += (shape.head + shape.embedding) * _KEPT_BYTES
    return weights + shape.kv_per_token * KV_BYTES[precision.kv] * context * concurrency
