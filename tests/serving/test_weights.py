"""What is said about tensors and files that cannot be served."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nemotron_diffusion_plugin.model.errors import CheckpointError
from nemotron_diffusion_plugin.model.names import expected_shapes
from nemotron_diffusion_plugin.model.reader import read_config
from nemotron_diffusion_plugin.serving.weights import checked, damaged


def test_tensors_pass_and_their_names_are_kept() -> None:
    weights = [
        ("wide", torch.ones(3, dtype=torch.bfloat16)),
        ("quantised", torch.ones(3, dtype=torch.float8_e4m3fn)),
        ("index", torch.arange(3)),
    ]
    names: list[str] = []
    passed = list(checked(iter(weights), names))
    assert names == ["wide", "quantised", "index"]
    assert all(after is before for (_, after), (_, before) in zip(passed, weights, strict=True))


def test_names_are_there_before_the_next_tensor_is_read() -> None:
    names: list[str] = []
    reading = checked(((name, torch.ones(1)) for name in "ab"), names)
    next(reading)
    assert names == ["a"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_that_are_not_finite(value: float, dtype: torch.dtype) -> None:
    weights = [("good", torch.ones(4, dtype=dtype)), ("bad", torch.tensor([1.0, value], dtype=dtype))]
    names: list[str] = []
    with pytest.raises(CheckpointError, match="tensor 'bad' holds NaN or infinite values"):
        list(checked(weights, names))
    assert names == ["good", "bad"]


def test_large_finite_values_pass() -> None:
    """A sum in the tensor's own dtype would overflow."""
    weights = [("large", torch.full((1000,), 60000.0, dtype=torch.float16))]
    assert len(list(checked(weights, []))) == 1


def test_a_damaged_file_is_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    error = damaged(folder, ["a"], read_config(folder), RuntimeError("cut"))
    assert isinstance(error, CheckpointError)
    assert str(error).startswith(f"{path}: truncated or not a safetensors file")


def test_whole_files_leave_the_readers_error(folder: Path) -> None:
    config = read_config(folder)
    error = damaged(folder, ["a", "b"], config, RuntimeError("no such dtype"))
    expected = len(expected_shapes(config))
    assert str(error) == f"{folder}: found 2 of {expected} expected tensors, then: no such dtype"
