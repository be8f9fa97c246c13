"""What is registered with SGLang, and what is said where it is not."""

from __future__ import annotations

import argparse
import logging
from collections import defaultdict
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("sglang")

from sglang.srt.arg_groups import resolution_hooks
from sglang.srt.models.registry import ModelRegistry
from sglang.srt.plugins.hook_registry import HookRegistry
from sglang.srt.speculative import spec_registry

from nemotron_diffusion_plugin.model import spec
from nemotron_diffusion_plugin.model.spec import TEXT
from nemotron_diffusion_plugin.options import DecodingMode, DecodingOptions
from nemotron_diffusion_plugin.serving.overrides import OverrideError
from nemotron_diffusion_plugin.sglang import diagnose, register, registration
from nemotron_diffusion_plugin.sglang.front.flags import add_flags
from nemotron_diffusion_plugin.sglang.identity import ALGORITHM
from nemotron_diffusion_plugin.sglang.settings import FLAG

pytestmark = pytest.mark.engine

FLAG_HOOK = "sglang.srt.server_args.ServerArgs.add_cli_args"
ARCHITECTURE = TEXT.architecture
PATCHES = registration.engine_patches()


@pytest.fixture(autouse=True)
def _nothing_registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """SGLang's registries as they are without the plugin; what a test registers goes with it."""
    monkeypatch.setattr(HookRegistry, "_hooks", defaultdict(list))
    monkeypatch.setattr(HookRegistry, "_patched", set())
    monkeypatch.setattr(resolution_hooks, "_HOOKS", {})
    algorithms, models = dict(spec_registry._REGISTRY), dict(ModelRegistry.models)
    spec_registry._REGISTRY.pop(ALGORITHM, None)
    ModelRegistry.models.pop(ARCHITECTURE, None)
    yield
    spec_registry._REGISTRY.clear()
    spec_registry._REGISTRY.update(algorithms)
    ModelRegistry.models.clear()
    ModelRegistry.models.update(models)


def in_place() -> None:
    """As after SGLang has loaded the plugin: the targets themselves are left alone here."""
    register()
    HookRegistry._patched.update(HookRegistry._hooks)


def rows() -> dict[str, bool]:
    return {what: good for what, good, _ in diagnose()}


def test_everything_is_registered() -> None:
    always = {"SGLang version", "config class"}  # transformers does not forget the config
    assert {what for what, good in rows().items() if good} <= always
    register()
    assert not any(rows()[f"patch {patch.name}"] for patch in PATCHES), "SGLang has not applied its hooks yet"
    HookRegistry._patched.update(HookRegistry._hooks)
    assert all(rows().values())
    assert set(rows()) == {
        *("SGLang version", "config class", "model class", "serving defaults", "speculative algorithm"),
        "command-line flag",
        *(f"patch {patch.name}" for patch in PATCHES),
    }


def test_a_second_registration_changes_nothing() -> None:
    register()
    hooks = {target: list(found) for target, found in HookRegistry._hooks.items()}
    steps = {step: list(found) for step, found in resolution_hooks._HOOKS.items()}
    register()
    assert {target: len(found) for target, found in HookRegistry._hooks.items()} == {
        target: len(found) for target, found in hooks.items()
    }
    assert steps == resolution_hooks._HOOKS


def test_the_flag_is_a_flag_of_the_server() -> None:
    register()
    [(kind, hook, _)] = HookRegistry._hooks[FLAG_HOOK]
    assert (kind.value, hook) == ("after", add_flags)
    parser = argparse.ArgumentParser()
    hook(None, parser)
    assert FLAG in parser.format_help()


def test_the_algorithm_is_ours() -> None:
    from nemotron_diffusion_plugin.sglang.algorithm import BlockAlgorithm
    from nemotron_diffusion_plugin.sglang.worker.block_worker import BlockWorker

    register()
    algorithm: Any = spec_registry.get_spec(ALGORITHM)
    assert isinstance(algorithm, BlockAlgorithm)
    assert algorithm.supports_overlap
    assert algorithm.factory(None) is BlockWorker
    travelling = (algorithm.has_draft_kv(), algorithm.need_topk(), algorithm.carries_draft_hidden_states())
    assert not any(travelling)


class TestInPlace:
    def test_silent_when_all_is_well(self) -> None:
        in_place()
        registration.check_in_place()

    @pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
    def test_a_patch_that_sglang_could_not_apply(self, patch: Any) -> None:
        in_place()
        HookRegistry._patched.discard(patch.target)
        self.check(f"patch {patch.name} ({patch.reason})")

    @pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
    def test_a_patch_that_was_not_registered(self, patch: Any) -> None:
        in_place()
        del HookRegistry._hooks[patch.target]
        self.check(f"patch {patch.name} ({patch.reason})")

    def test_registries(self) -> None:
        in_place()
        spec_registry._REGISTRY.pop(ALGORITHM)
        resolution_hooks._HOOKS.clear()
        ModelRegistry.models.pop(ARCHITECTURE)
        self.check(
            "model class (not registered); serving defaults (not registered); speculative algorithm (not registered)"
        )

    @staticmethod
    def check(missing: str) -> None:
        with pytest.raises(RuntimeError) as refused:
            registration.check_in_place()
        assert str(refused.value) == (
            f"{ARCHITECTURE} cannot be served, as the plugin is not in place: {missing}. The log above says why; "
            "`nemotron-diffusion doctor` checks the installation."
        )


class TestTakingIn:
    """What is counted and streamed of the requests of a step."""

    @staticmethod
    def request(mode: str | None, output: int, sent: int, finished: bool = False) -> Any:
        return SimpleNamespace(
            mode=mode and DecodingMode(mode),
            output_ids=[0] * output,
            send_token_offset=sent,
            finished=lambda: finished,
        )

    @pytest.fixture(autouse=True)
    def counted(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, DecodingMode]]:
        counted: list[tuple[Any, DecodingMode]] = []
        counters = SimpleNamespace(returned=lambda req, options: counted.append((req, options.decoding_mode)))
        monkeypatch.setattr(registration.counters, "of_process", lambda: counters)
        monkeypatch.setattr(
            registration.admission,
            "options_of",
            lambda req: DecodingOptions(decoding_mode=req.mode) if req.mode else None,
        )
        return counted

    @pytest.mark.parametrize(
        ("mode", "output", "sent", "finished", "streamed"),
        [
            ("diffusion", 5, 5, False, False),  # it waits for its block
            ("diffusion", 6, 5, False, True),
            ("diffusion", 5, 5, True, True),
            ("diffusion", 4, 5, False, False),  # retracted
            ("ar", 5, 5, False, True),
            ("self_speculation", 5, 5, False, True),
            (None, 5, 5, False, True),  # another model's
        ],
    )
    def test_who_is_streamed(
        self, mode: str | None, output: int, sent: int, finished: bool, streamed: bool, counted: Any
    ) -> None:
        other = self.request("ar", 1, 0)
        req = self.request(mode, output, sent, finished)
        assert registration._take_in([req, other]) == ([req, other] if streamed else [other])
        expected = [(req, DecodingMode(mode))] if mode else []
        assert counted == [*expected, (other, DecodingMode.AR)]

    def test_without_a_worker_of_ours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registration.counters, "of_process", lambda: None)
        reqs = [self.request(None, 3, 3), self.request(None, 0, 0, True)]
        assert registration._take_in(reqs) == reqs


class TestOverridesThatDoNotFit:
    """SGLang logs the error and goes on; our model is not served."""

    def test_of_the_model_class(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sglang.srt.models.registry.import_model_classes", refuse)
        with pytest.raises(OverrideError):
            register()
        assert ARCHITECTURE not in ModelRegistry.models
        assert not resolution_hooks._HOOKS
        assert not HookRegistry._hooks

    def test_of_the_algorithm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as unfit:
            unfit.setattr(spec_registry, "get_spec", refuse)
            with pytest.raises(OverrideError):
                register()
        assert not HookRegistry._hooks
        with pytest.raises(RuntimeError, match=r"not in place: .*speculative algorithm"):
            registration.check_in_place()


def refuse(*arguments: Any, **keywords: Any) -> Any:
    raise OverrideError("a class of ours does not fit")


class TestAnotherVersion:
    @pytest.fixture(autouse=True)
    def _installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sglang.version.__version__", "0.6.1")

    def test_only_the_config_is_registered(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        configs: list[str] = []
        monkeypatch.setattr(spec, "register", lambda: configs.append("config"))
        monkeypatch.setattr(logging.getLogger("sglang"), "propagate", True)
        with caplog.at_level(logging.WARNING, "sglang.nemotron_diffusion_plugin"):
            register()
        assert configs == ["config"]
        assert not HookRegistry._hooks
        assert not resolution_hooks._HOOKS
        assert spec_registry.get_spec(ALGORITHM) is None
        assert ARCHITECTURE not in ModelRegistry.models
        assert "SGLang 0.6.1 is installed" in caplog.text
        assert "other models are not affected" in caplog.text

    def test_our_model_says_so(self) -> None:
        in_place()
        with pytest.raises(
            RuntimeError, match=r"SGLang version \(SGLang 0.6.1 is installed, but this version"
        ):
            registration.check_in_place()
