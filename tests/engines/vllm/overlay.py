"""The Python of a newer vLLM over the compiled parts of an older one, which has a build for a CPU.

It tests all that is Python. It tests nothing of CUDA graphs, FlashAttention or compiled kernels of the newer version.
"""

from __future__ import annotations

from pathlib import Path

LOCAL = "+cpu"
"""What vLLM recognises a CPU build by."""


def lay_over(packages: Path, base_packages: Path) -> None:
    """Put the compiled parts of `base_packages` in the place of those of the wheel that was unpacked in `packages`."""
    for compiled in (packages / "vllm").rglob("*.so"):
        compiled.unlink()
    for compiled in (base_packages / "vllm").glob("*.so"):
        (packages / "vllm" / compiled.name).symlink_to(compiled)
    [info] = packages.glob("vllm-*.dist-info")
    version = info.name.removeprefix("vllm-").removesuffix(".dist-info")
    (info / "RECORD").unlink()
    metadata = (info / "METADATA").read_text(encoding="utf-8")
    renamed = metadata.replace(f"\nVersion: {version}\n", f"\nVersion: {version}{LOCAL}\n", 1)
    (info / "METADATA").write_text(renamed, encoding="utf-8")
    info.rename(packages / f"vllm-{version}{LOCAL}.dist-info")
