"""Loading through an engine, and what is said about tensors and files that cannot be served."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from nemotron_diffusion_plugin.model.errors import CheckpointError
from nemotron_diffusion_plugin.model.lora import DrafterLora
from nemotron_diffusion_plugin.model.names import expected_shapes
from nemotron_diffusion_plugin.model.reader import read_config
from nemotron_diffusion_plugin.serving.lora_files import Source
from nemotron_diffusion_plugin.serving.weights import CheckpointLoader, Weights, checked, damaged

LAYER_1 = "encoder.layers.1.mlp.up_proj.weight"


class Engine:
    """An engine's own loader, which keeps the names it is given and may fail at the first."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.error: Exception | None = None

    def take(self, weights: Weights) -> set[str]:
        for name, _ in weights:
            self.names.append(name)
            if self.error is not None:
                raise self.error
        return set(self.names)


class Loading:
    """A loader of one checkpoint folder with the engine behind it."""

    def __init__(self, folder: Path, quantized: bool = False) -> None:
        self.folder = folder
        self.engine = Engine()
        self.adapters: list[DrafterLora] = []
        self.loader = CheckpointLoader(
            read_config(folder),
            quantized=quantized,
            place=self.adapters.append,
            logger=logging.getLogger("some.engine"),
        )

    def load(self, weights: Weights) -> Any:
        return self.loader.load(weights, self.engine.take, Source(str(self.folder)))

    def published(self, without: str = "", also: Iterable[str] = ()) -> list[tuple[str, torch.Tensor]]:
        names = [name for name in expected_shapes(self.loader.config) if name != without]
        return [(name, torch.zeros(1)) for name in [*names, *also]]


@pytest.fixture
def loading(folder: Path) -> Loading:
    return Loading(folder)


class TestLoading:
    def test_the_engine_gets_its_own_names_and_answers(self, loading: Loading) -> None:
        loaded = loading.load(loading.published())
        assert loaded == set(loading.engine.names)
        assert len(loaded) == len(loading.engine.names) == len(expected_shapes(loading.loader.config))
        assert {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"} <= loaded
        assert "model.layers.1.self_attn.q_proj.weight" in loaded

    def test_the_adapter_comes_after_the_tensors(self, loading: Loading) -> None:
        loading.load(loading.published())
        [adapter] = loading.adapters
        assert (adapter.rank, adapter.alpha) == (8, 32.0)

    def test_a_base_model_has_no_adapter(self, folder: Path) -> None:
        shutil.rmtree(folder / "linear_spec_lora")
        loading = Loading(folder)
        loading.load(loading.published())
        assert loading.adapters == []
        assert loading.loader.complete

    @pytest.mark.parametrize(
        ("without", "also"), [(LAYER_1, []), ("", ["encoder.layers.7.mlp.up_proj.weight"])]
    )
    def test_names_that_do_not_match(self, without: str, also: list[str], loading: Loading) -> None:
        with pytest.raises(CheckpointError, match=without or also[0]):
            loading.load(loading.published(without, also))
        assert loading.adapters == []

    @pytest.mark.parametrize("kind", [AssertionError, KeyError, RuntimeError, ValueError])
    def test_a_failure_inside_the_engine_is_explained_by_the_names(self, kind: Any, loading: Loading) -> None:
        loading.engine.error = kind("no such parameter")
        with pytest.raises(CheckpointError, match=r"encoder\.layers\.7\.extra") as explained:
            loading.load(iter(loading.published(also=["encoder.layers.7.extra"])))
        assert "the file holds 22" in str(explained.value), "all names are read, also those after the failure"
        with pytest.raises(kind, match="no such parameter"):
            loading.load(loading.published())

    def test_a_file_that_cannot_be_read_is_named(self, loading: Loading) -> None:
        loading.engine.error = SafetensorError("cut")
        with pytest.raises(CheckpointError, match=r"found 1 of 21 expected tensors, then: cut"):
            loading.load(iter(loading.published()))
        path = loading.folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(CheckpointError, match=r"model\.safetensors: truncated"):
            loading.load(loading.published())

    def test_values_are_checked(self, loading: Loading) -> None:
        bad = [(name, torch.full((1,), float("nan"))) for name, _ in loading.published()]
        with pytest.raises(CheckpointError, match=r"'encoder\.embed_tokens\.weight' holds NaN or infinite"):
            loading.load(bad)

    def test_quantized_checkpoints_have_names_of_their_own(self, folder: Path) -> None:
        loading = Loading(folder, quantized=True)
        loading.load(loading.published(LAYER_1, ["encoder.layers.0.mlp.up_proj.weight_scale"]))
        assert len(loading.adapters) == 1


class TestUpdates:
    """An engine's updates of weights bring a few tensors at a time, once a checkpoint has been loaded."""

    def test_some_tensors(self, loading: Loading) -> None:
        loading.load(loading.published())
        loading.load([("encoder.norm.weight", torch.zeros(1))])
        assert loading.engine.names[-1] == "model.norm.weight"
        assert len(loading.adapters) == 1

    def test_a_load_that_failed_was_none(self, loading: Loading) -> None:
        for _ in range(2):
            with pytest.raises(CheckpointError, match=r"encoder\.norm\.weight"):
                loading.load(loading.published("encoder.norm.weight"))
        assert loading.adapters == []
        loading.load(loading.published())
        assert len(loading.adapters) == 1

    def test_values_are_still_checked(self, loading: Loading) -> None:
        loading.load(loading.published())
        with pytest.raises(CheckpointError, match="holds NaN or infinite values"):
            loading.load([("encoder.norm.weight", torch.full((1,), torch.inf))])

    def test_what_the_engine_says_comes_through(self, loading: Loading) -> None:
        loading.load(loading.published())
        loading.engine.error = KeyError("no such parameter")
        with pytest.raises(KeyError, match="no such parameter"):
            loading.load([("encoder.nothing", torch.zeros(1))])


class TestWithoutWeights:
    def test_an_adapter_is_drawn_once(self, loading: Loading) -> None:
        source = Source(str(loading.folder))
        loading.loader.draw_lora(source)
        loading.loader.draw_lora(source)
        [adapter] = loading.adapters
        assert adapter.rank == 8
        assert 0.0 < float(adapter.b[0].abs().max()) <= 1e-3
        loading.load([("encoder.norm.weight", torch.zeros(1))])
        assert len(loading.adapters) == 1

    def test_after_a_checkpoint_nothing_is_drawn(self, loading: Loading) -> None:
        loading.load(loading.published())
        loading.loader.draw_lora(Source(str(loading.folder)))
        assert len(loading.adapters) == 1


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
