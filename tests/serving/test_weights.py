"""Loading through an engine, and what is said about tensors and files that cannot be served."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from nemotron_diffusion_plugin.model.errors import CheckpointError
from nemotron_diffusion_plugin.model.lora import DrafterLora
from nemotron_diffusion_plugin.model.names import expected_shapes
from nemotron_diffusion_plugin.model.reader import read_config
from nemotron_diffusion_plugin.serving.draft_lora import LowRankBranch
from nemotron_diffusion_plugin.serving.lora_files import Source
from nemotron_diffusion_plugin.serving.weights import CheckpointLoader, Weights, checked, damaged
from tests.common.damage import (
    WEIGHTS,
    halve_the_adapter,
    lose_a_layer,
    pickle_the_weights,
    put_in_a_nan,
    shorten_a_tensor,
    truncate,
    truncate_the_adapter,
)

LAYER_1 = "encoder.layers.1.mlp.up_proj.weight"
NORM = "encoder.norm.weight"
HALF = "base_model.model.encoder.layers.1.self_attn.o_proj.lora_A.weight"


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
        self.branches = [LowRankBranch(layer) for layer in range(2)]
        self.loader = CheckpointLoader(
            read_config(folder),
            quantized=quantized,
            place=self.place,
            branches=lambda: self.branches,
            logger=logging.getLogger("some.engine"),
        )

    def place(self, lora: DrafterLora) -> None:
        self.adapters.append(lora)
        for branch in self.branches:
            branch.load(lora, torch.empty(0))

    def load(self, weights: Weights) -> Any:
        return self.loader.load(weights, self.engine.take, Source(str(self.folder)))

    def update(self, folder: Path) -> None:
        """What an engine does with another folder: it reads all of it."""
        with self.loader.update_from(Source(str(folder))):
            self.load(iter(load_file(folder / WEIGHTS).items()))

    def halves(self) -> list[torch.Tensor]:
        return [half.clone() for branch in self.branches for half in (branch.a, branch.b)]

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

    @pytest.fixture(autouse=True)
    def _loaded(self, loading: Loading) -> None:
        loading.load(loading.published())
        loading.engine.names.clear()

    def test_some_tensors(self, loading: Loading) -> None:
        loading.load([(NORM, torch.zeros(32))])
        loading.load([("model.norm.weight", torch.zeros(32, dtype=torch.bfloat16))])
        assert loading.engine.names == ["model.norm.weight"] * 2, "under the published name or the engine's"
        assert len(loading.adapters) == 1

    @pytest.mark.parametrize(
        ("name", "tensor", "said"),
        [
            (NORM, torch.full((32,), torch.inf), "holds NaN or infinite values"),
            (NORM, torch.zeros(31), r"got shape \[31\], expected \[32\]"),
            (NORM, torch.zeros(32, dtype=torch.int64), r"got torch\.int64, expected floating point"),
            (
                "encoder.nothing",
                torch.zeros(1),
                r"unknown: expected the published names, such as 'encoder\.emb",
            ),
            (HALF, torch.zeros(4, 64), r"got shape \[4, 64\], expected \[8, 64\]"),
        ],
    )
    @pytest.mark.parametrize("streamed", [False, True])
    def test_of_a_bad_collection_nothing_is_taken(
        self, name: str, tensor: torch.Tensor, said: str, streamed: bool, loading: Loading
    ) -> None:
        before = loading.halves()
        some = [("encoder.layers.0.input_layernorm.weight", torch.zeros(32)), (name, tensor)]
        whole = f"tensor '{name}'.*{said}" + ("" if streamed else ".*none of the 2 tensors")
        with pytest.raises(CheckpointError, match=whole):
            loading.load(iter(some) if streamed else some)
        assert len(loading.engine.names) == streamed, "what is streamed is checked as it comes"
        assert all(map(torch.equal, before, loading.halves()))

    def test_what_the_engine_says_comes_through(self, loading: Loading) -> None:
        loading.engine.error = KeyError("no such parameter")
        with pytest.raises(KeyError, match="no such parameter"):
            loading.load([(NORM, torch.zeros(32))])

    def test_halves_of_the_adapter_are_written_in_place(self, loading: Loading) -> None:
        before, places = loading.halves(), [(branch.a, branch.b) for branch in loading.branches]
        a, b = torch.rand(8, 64), torch.rand(32, 8)
        loading.load([(HALF, a), (HALF.replace("lora_A", "lora_B").replace("layers.1", "layers.0"), b)])
        now = loading.halves()
        assert torch.equal(now[2], a)
        assert torch.equal(now[1], b * 4.0), "scaled by alpha / r of the adapter that was loaded"
        assert torch.equal(now[0], before[0])
        assert torch.equal(now[3], before[3])
        assert all(
            branch.a is a and branch.b is b for branch, (a, b) in zip(loading.branches, places, strict=True)
        )
        assert loading.engine.names == []

    def test_without_an_adapter_none_can_come(self, folder: Path) -> None:
        shutil.rmtree(folder / "linear_spec_lora")
        loading = Loading(folder)
        loading.load(loading.published())
        with pytest.raises(
            CheckpointError, match="expected none of a drafter LoRA, as this server was started"
        ):
            loading.load([(HALF, torch.zeros(8, 64))])

    def test_quantized_tensors_have_other_names_and_shapes(self, folder: Path) -> None:
        loading = Loading(folder, quantized=True)
        loading.load(loading.published())
        loading.load([(NORM, torch.zeros(1)), ("encoder.scale", torch.zeros(1))])
        with pytest.raises(CheckpointError, match="holds NaN"):
            loading.load([("encoder.scale", torch.full((1,), torch.nan))])


class TestAnotherCheckpoint:
    @pytest.fixture(autouse=True)
    def _loaded(self, loading: Loading) -> None:
        loading.load(loading.published())
        loading.engine.names.clear()

    @pytest.fixture
    def other(self, folder: Path, tmp_path: Path) -> Path:
        """Another checkpoint with another adapter of another alpha."""
        made = shutil.copytree(folder, tmp_path / "other")
        lora = DrafterLora.load(made, read_config(made))
        assert lora is not None
        DrafterLora([-a for a in lora.a], list(lora.b), alpha=8.0).save(made)
        return made

    def test_the_adapter_comes_with_it(self, loading: Loading, other: Path) -> None:
        before, places = loading.halves(), [branch.a for branch in loading.branches]
        loading.update(other)
        now = loading.halves()
        assert torch.equal(now[0], -before[0])
        torch.testing.assert_close(now[1], before[1] / 4.0)
        assert len(loading.engine.names) == 21
        assert all(branch.a is place for branch, place in zip(loading.branches, places, strict=True))

    def test_without_an_adapter_the_old_one_stays(
        self, loading: Loading, other: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        shutil.rmtree(other / "linear_spec_lora")
        before = loading.halves()
        loading.update(other)
        assert all(map(torch.equal, before, loading.halves()))
        assert f"no drafter LoRA in {other}: the one that was loaded before stays" in caplog.text

    def test_after_an_error_of_the_engine_the_old_adapter_stays(self, loading: Loading, other: Path) -> None:
        before = loading.halves()
        loading.engine.error = MemoryError()
        with pytest.raises(MemoryError):
            loading.update(other)
        assert all(map(torch.equal, before, loading.halves()))
        with pytest.raises(CheckpointError, match="holds NaN"):
            loading.load([(NORM, torch.full((32,), torch.nan))])

    @pytest.mark.parametrize(
        ("damage", "said"),
        [
            (lose_a_layer, r"encoder\.layers\.1\."),
            (truncate, r"model\.safetensors: truncated"),
            (put_in_a_nan, r"'encoder\.norm\.weight' holds NaN"),
            (pickle_the_weights, "safetensors only, found pytorch_model.bin"),
            (shorten_a_tensor, r"'encoder\.norm\.weight': got shape \[31\], expected \[32\]"),
            (truncate_the_adapter, r"adapter_model\.safetensors: truncated"),
            (halve_the_adapter, "drafter LoRA: got rank 4, expected 8"),
            (shutil.rmtree, "no such folder, expected one with a checkpoint"),
        ],
    )
    def test_one_that_cannot_be_served_is_not_begun(
        self, damage: Callable[[Path], None], said: str, loading: Loading, other: Path
    ) -> None:
        damage(other)
        before = loading.halves()
        with pytest.raises(CheckpointError, match=said):
            loading.update(other)
        assert loading.engine.names == []
        assert all(map(torch.equal, before, loading.halves()))

    def test_a_server_without_an_adapter_takes_none(self, other: Path, folder: Path) -> None:
        shutil.rmtree(folder / "linear_spec_lora")
        loading = Loading(folder)
        loading.load(loading.published())
        with pytest.raises(CheckpointError, match="got rank 8, expected no adapter"):
            loading.update(other)

    def test_quantized_files_are_checked_for_values_only(self, other: Path) -> None:
        loading = Loading(other, quantized=True)
        loading.load(loading.published())
        tensors = load_file(other / WEIGHTS)
        save_file({**tensors, "encoder.scale": torch.ones(1)}, other / WEIGHTS)
        loading.update(other)
        save_file({**tensors, "encoder.scale": torch.full((1,), torch.nan)}, other / WEIGHTS)
        with pytest.raises(CheckpointError, match=r"'encoder\.scale' holds NaN"):
            loading.update(other)

    def test_in_a_hub_repository(
        self, loading: Loading, other: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[Any] = []
        monkeypatch.setattr(
            "huggingface_hub.snapshot_download", lambda *a, **k: asked.append((a, k)) or str(other)
        )
        with loading.loader.update_from(Source("owner/model", "abc", "/cache")):
            pass
        [(_, keywords)] = asked
        assert keywords["revision"] == "abc"
        assert {"*.safetensors", "linear_spec_lora/*"} < set(keywords["allow_patterns"])


class TestWithoutWeights:
    def test_an_adapter_is_drawn_once(self, loading: Loading) -> None:
        source = Source(str(loading.folder))
        loading.loader.draw_lora(source)
        loading.loader.draw_lora(source)
        [adapter] = loading.adapters
        assert adapter.rank == 8
        assert 0.0 < float(adapter.b[0].abs().max()) <= 1e-3

    @pytest.mark.parametrize("stored", [True, False])
    def test_the_first_weights_bring_the_stored_adapter(self, stored: bool, loading: Loading) -> None:
        """A trainer starts a server without weights and sends them all."""
        loading.loader.draw_lora(Source(str(loading.folder)))
        if not stored:
            (loading.folder / "linear_spec_lora" / "adapter_model.safetensors").unlink()
        for _ in range(2):
            loading.load([(NORM, torch.zeros(32))])
        assert len(loading.adapters) == 1 + stored
        assert (float(loading.adapters[-1].b[0].detach().abs().max()) > 1e-3) is stored

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("place", [0, 5000, 9999])
def test_one_nan_among_many(dtype: torch.dtype, place: int) -> None:
    tensor = torch.rand(100, 100, dtype=dtype).t()
    tensor[place // 100, place % 100] = torch.nan
    with pytest.raises(CheckpointError, match="holds NaN"):
        list(checked([("many", tensor)], []))


def test_large_finite_values_pass() -> None:
    """A sum would overflow."""
    weights = [("large", torch.full((1000,), value)) for value in (3e38, -3e38)]
    weights += [("half", torch.full((1000,), 60000.0, dtype=torch.float16)), ("empty", torch.empty(0))]
    assert len(list(checked(weights, []))) == 4


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
