"""What SGLang's scheduler answers to an update of weights that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("sglang")

from nemotron_diffusion_plugin.model.errors import CheckpointError
from nemotron_diffusion_plugin.serving.lora_files import Source
from nemotron_diffusion_plugin.serving.weights import CheckpointLoader
from nemotron_diffusion_plugin.sglang.weight_updates import Answer, from_disk, from_tensor

pytestmark = pytest.mark.engine

DONE = True, "Succeeded"


class Loader(CheckpointLoader):
    def __init__(self) -> None:
        self.log: list[Any] = []

    @contextmanager
    def update_from(self, source: Source) -> Iterator[None]:
        self.log.append(source)
        if source.model == "/bad":
            raise CheckpointError("tensor 'x' holds NaN")
        yield
        self.log.append("adapter")


@pytest.fixture
def updater() -> SimpleNamespace:
    model = SimpleNamespace(loader=Loader())
    config = SimpleNamespace(model_path="/old", revision="abc")
    return SimpleNamespace(get_model=lambda: model, model_config=config, loader=model.loader)


def fails(error: Exception) -> Callable[[], Answer]:
    def run() -> Answer:
        raise error

    return run


class TestFromDisk:
    def test_the_adapter_comes_after_the_weights(self, updater: Any) -> None:
        assert from_disk(updater, "/new", lambda: updater.loader.log.append("weights") or DONE) == DONE
        assert updater.loader.log == [Source("/new", "abc"), "weights", "adapter"]

    def test_what_is_refused_is_not_begun(self, updater: Any) -> None:
        done, said = from_disk(updater, "/bad", lambda: pytest.fail("begun"))
        assert not done
        assert said == "tensor 'x' holds NaN. The weights are as they were."

    @pytest.mark.parametrize("run", [fails(MemoryError("no room")), lambda: (False, "no room")])
    def test_what_fails_later_leaves_a_mixture(self, updater: Any, run: Callable[[], Answer]) -> None:
        def begin() -> Answer:
            updater.model_config.model_path = "/new"
            return run()

        done, said = from_disk(updater, "/new", begin)
        assert not done
        assert "no room. The weights are partly new: update from a whole checkpoint" in said
        assert updater.loader.log == [Source("/new", "abc")]
        assert updater.model_config.model_path == "/old"


class TestFromTensor:
    def test_what_sglang_answers(self, updater: Any) -> None:
        assert from_tensor(updater, lambda: DONE) == DONE

    def test_an_error_is_an_answer(self, updater: Any) -> None:
        assert from_tensor(updater, fails(CheckpointError("shape"))) == (False, "shape")
        assert from_tensor(updater, fails(KeyError("x"))) == (False, "KeyError: 'x'")


@pytest.mark.parametrize("update", [lambda *a: from_disk(a[0], "/new", a[1]), from_tensor])
@pytest.mark.parametrize("model", [SimpleNamespace(), SimpleNamespace(loader="its own")])
def test_other_models_are_left_alone(update: Callable[..., Answer], model: Any) -> None:
    updater = SimpleNamespace(get_model=lambda: model)
    assert update(updater, lambda: DONE) == DONE
    with pytest.raises(KeyError):
        update(updater, fails(KeyError()))
