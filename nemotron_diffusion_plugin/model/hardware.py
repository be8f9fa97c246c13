"""GPUs by their data sheets.

Of one GPU of the SXM form: bandwidth in TB/s (10^12 bytes), dense TFLOP/s (half of what data sheets print "with
sparsity"), memory in GB.

* a100: NVIDIA A100 80GB data sheet: 2,039 GB/s, BF16 312 TFLOPS; no FP8.
* h100: NVIDIA H100 data sheet: 3.35 TB/s, BF16 1,979 and FP8 3,958 TFLOPS with sparsity.
* h200: NVIDIA H200 data sheet: 4.8 TB/s, the H100's TFLOPS, 141 GB.
* b200: NVIDIA HGX B200 data sheet: 8 TB/s, dense BF16 2,250 and FP8 4,500 TFLOPS at 1000 W, 180 GB.
"""

from dataclasses import dataclass, replace

CUSTOM = "custom"


@dataclass(frozen=True)
class Gpu:
    """One card: bandwidth in TB/s, dense bf16 and fp8 TFLOP/s, and memory in GB (None: unknown, nothing is checked)."""

    name: str
    bandwidth: float
    tflops: float
    fp8_tflops: float
    memory_gb: float | None = None

    def at(self, efficiency: float, compute_efficiency: float) -> "Gpu":
        """Return this card reaching only these shares (0 to 1] of its bandwidth and of its FLOP/s."""
        return replace(
            self,
            bandwidth=self.bandwidth * efficiency,
            tflops=self.tflops * compute_efficiency,
            fp8_tflops=self.fp8_tflops * compute_efficiency,
        )


GPUS = {
    "a100": Gpu("a100", 2.039, 312.0, 312.0, 80.0),
    "h100": Gpu("h100", 3.35, 989.0, 1979.0, 80.0),
    "h200": Gpu("h200", 4.8, 989.0, 1979.0, 141.0),
    "b200": Gpu("b200", 8.0, 2250.0, 4500.0, 180.0),
}


def find_gpu(name: str, bandwidth: float | None = None, tflops: float | None = None) -> Gpu:
    """Return a known card, with another bandwidth (TB/s) or bf16 speed (TFLOP/s) if given, or a `custom` one from both.

    Another bf16 speed scales the fp8 speed with it; a custom card computes fp8 as fast as bf16.

    Raises:
        ValueError: an unknown name, a custom card without both numbers, or a number that is not from 1e-6 to 1e6.
    """
    for option, value in (("--bandwidth", bandwidth), ("--tflops", tflops)):
        if value is not None and not 1e-6 <= value <= 1e6:
            raise ValueError(f"{option}: got {value}, expected a number from 1e-06 to 1e+06")
    if name.lower() == CUSTOM:
        if bandwidth is None or tflops is None:
            raise ValueError("--gpu custom: expected --bandwidth (TB/s) and --tflops (dense bf16) beside it")
        return Gpu(CUSTOM, bandwidth, tflops, tflops)
    if name.lower() not in GPUS:
        raise ValueError(f"--gpu: got '{name}', expected {', '.join(GPUS)} or {CUSTOM}")
    gpu = GPUS[name.lower()]
    if bandwidth is not None:
        gpu = replace(gpu, bandwidth=bandwidth)
    if tflops is not None:
        gpu = replace(gpu, tflops=tflops, fp8_tflops=gpu.fp8_tflops * tflops / gpu.tflops)
    return gpu
