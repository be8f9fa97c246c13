"""The Python of one version over the compiled parts of another."""

from __future__ import annotations

from pathlib import Path

from tests.engines.vllm.overlay import lay_over


def test_compiled_parts_are_those_of_the_base(tmp_path: Path) -> None:
    packages, base = tmp_path / "packages", tmp_path / "base"
    info = packages / "vllm-0.33.0.dist-info"
    for folder in (packages / "vllm" / "sub", base / "vllm", info):
        folder.mkdir(parents=True)
    for file in ("vllm/_cuda.abi3.so", "vllm/sub/_more.so", "vllm/code.py"):
        (packages / file).write_text("new")
    (base / "vllm" / "_C.abi3.so").write_text("old")
    (info / "RECORD").touch()
    (info / "METADATA").write_text("Name: vllm\nVersion: 0.33.0\nRequires-Dist: x==0.33.0\n")
    lay_over(packages, base)
    assert {path.name for path in packages.rglob("*.so")} == {"_C.abi3.so"}
    assert (packages / "vllm" / "_C.abi3.so").read_text() == "old"
    assert (packages / "vllm" / "code.py").read_text() == "new"
    [renamed] = packages.glob("*.dist-info")
    assert renamed.name == "vllm-0.33.0+cpu.dist-info"
    assert (renamed / "METADATA").read_text() == "Name: vllm\nVersion: 0.33.0+cpu\nRequires-Dist: x==0.33.0\n"
    assert not (renamed / "RECORD").exists()
