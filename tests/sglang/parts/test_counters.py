"""What is counted of a step, and under which names Prometheus gets it."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("prometheus_client")

import prometheus_client

from nemotron_diffusion_plugin.options import DecodingMode, DecodingOptions
from nemotron_diffusion_plugin.serving import counters as names
from nemotron_diffusion_plugin.sglang.worker import counters as module
from nemotron_diffusion_plugin.sglang.worker.counters import Counters, _Metrics
from nemotron_diffusion_plugin.sglang.worker.step import StepCounts

AR, DIFFUSION, SPECULATION = DecodingMode.AR, DecodingMode.DIFFUSION, DecodingMode.SELF_SPECULATION
AUTO = DecodingMode.AUTO
MODEL = "some model"


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Prometheus' registry of this test alone."""
    fresh = prometheus_client.CollectorRegistry()

    for kind in ("Counter", "Histogram"):
        original = getattr(prometheus_client.metrics, kind)
        monkeypatch.setattr(prometheus_client, kind, partial(original, registry=fresh))
    return fresh


@pytest.fixture
def counted(registry: Any) -> Counters:
    return Counters(_Metrics(MODEL, (6, 12)))


@pytest.fixture
def values(registry: Any) -> Any:
    """Every counter that is not 0, by its name and its labels but the model's; no histograms."""

    def read() -> dict[tuple[str, ...], float]:
        families = [family for family in registry.collect() if family.type == "counter"]
        samples = [sample for family in families for sample in family.samples]
        return {
            (
                sample.name.removesuffix("_total").removeprefix(names.PREFIX),
                *sorted(_labels(sample)),
            ): sample.value
            for sample in samples
            if sample.value and not sample.name.endswith("_created")
        }

    return read


def _labels(sample: Any) -> list[str]:
    return [value for label, value in sample.labels.items() if label != "model_name"]


def req(finished: bool = False, retracted: bool = False, output: int = 0, end: int | None = None) -> Any:
    return SimpleNamespace(
        is_retracted=retracted, finished=lambda: finished, output_ids=[0] * output, finished_len=end
    )


def in_mode(mode: DecodingMode, **more: Any) -> DecodingOptions:
    return DecodingOptions(decoding_mode=mode, **more)


def report(*rows: tuple[Any, DecodingMode, int, int, int]) -> StepCounts:
    """Rows of request, mode, draft forwards, denoise forwards, and width in the verify forward."""
    reqs, modes, *numbers = zip(*rows, strict=True)
    codes = np.array([mode.code for mode in modes])
    slots = np.arange(len(reqs))
    return StepCounts(list(reqs), codes, *[np.array(column) for column in numbers], slots, slots)


def test_names_are_those_of_every_engine(counted: Counters, registry: Any) -> None:
    found = {
        (sample.name, *sorted(sample.labels.items()))
        for family in registry.collect()
        for sample in family.samples
        if family.type == "counter" and not sample.name.endswith("_created")
    }
    model, modes = ("model_name", MODEL), [("decoding_mode", mode.value) for mode in DecodingMode]
    expected = {(f"{names.PREFIX}{name}_total", mode, model) for name in names.PER_MODE for mode in modes}
    forwards = f"{names.PREFIX}{names.FORWARDS}_total"
    expected |= {(forwards, mode, ("kind", kind), model) for kind in names.KINDS for mode in modes}
    engine = f"{names.PREFIX}{names.ENGINE_FORWARDS}_total"
    expected |= {(engine, ("attention", attention), model) for attention in names.ATTENTION}
    decisions = f"{names.PREFIX}{names.POLICY_DECISIONS}_total"
    expected |= {(decisions, ("block_size", block), model) for block in ("1", "6", "12")}
    assert found == expected
    shown = {family.name for family in registry.collect() if family.type == "histogram"}
    assert shown == {names.PREFIX + histogram.name for histogram in names.HISTOGRAMS}


def test_a_step_of_every_mode(counted: Counters, values: Any) -> None:
    counted.step_begun(
        report(
            (req(), AR, 0, 0, 1),
            (req(), SPECULATION, 1, 0, 8),
            (req(), SPECULATION, 0, 0, 1),  # near the context limit
            (req(), DIFFUSION, 0, 5, 8),
            (req(), DIFFUSION, 0, 0, 0),  # its block still holds masks
        )
    )
    assert values() == {}
    counted.step_done([0, 3, 0, 7, -1])
    assert values() == {
        ("forwards", "ar", "verify"): 1,
        ("forwards", "self_speculation", "verify"): 2,
        ("forwards", "draft", "self_speculation"): 1,
        ("forwards", "denoise", "diffusion"): 5,
        ("forwards", "diffusion", "verify"): 1,
        ("cycles", "self_speculation"): 1,
        ("cycles", "diffusion"): 1,
        ("accepted_drafts", "self_speculation"): 3,
    }


def test_steps_come_back_in_the_order_they_were_begun(counted: Counters, values: Any) -> None:
    counted.step_begun(report((req(), SPECULATION, 1, 0, 8), (req(), DIFFUSION, 0, 4, 8)))
    counted.step_begun(report((req(), SPECULATION, 1, 0, 8)))
    counted.step_done([2, 7])
    assert values()["accepted_drafts", "self_speculation"] == 2
    assert values()["forwards", "denoise", "diffusion"] == 4
    counted.step_done([5])
    assert values()["accepted_drafts", "self_speculation"] == 7
    before = values()
    counted.step_done([9])  # nothing was begun
    assert values() == before


def test_how_acceptance_and_steps_spread(counted: Counters, registry: Any) -> None:
    rows = [
        (req(), SPECULATION, 1, 0, 8),
        (req(), AUTO, 1, 0, 8),
        (req(), DIFFUSION, 0, 9, 8),
        (req(), AR, 0, 0, 1),
    ]
    counted.step_begun(report(*rows))
    counted.step_done([3, 0, 7, 0])

    def at_most(name: str, edge: str) -> float | None:
        return registry.get_sample_value(f"{names.PREFIX}{name}_bucket", {"model_name": MODEL, "le": edge})

    assert [at_most("cycle_accepted_drafts", edge) for edge in ("0.0", "2.0", "3.0", "+Inf")] == [1, 1, 2, 2]
    assert [at_most("block_denoise_steps", edge) for edge in ("8.0", "10.0", "+Inf")] == [0, 1, 1]


@pytest.mark.parametrize("exported", [True, False])
def test_a_request_that_asks_is_counted_by_itself(exported: bool, registry: Any) -> None:
    counters = Counters(_Metrics(MODEL) if exported else None)
    asked, other = req(output=1), req(output=1)
    counters.returned(asked, in_mode(SPECULATION, return_counts=True))
    counters.returned(other, in_mode(SPECULATION))
    counters.step_begun(report((asked, SPECULATION, 1, 0, 8), (other, SPECULATION, 1, 0, 8)))
    counters.step_done([3, 5])
    asked.output_ids = [0] * 5
    counters.returned(asked, in_mode(SPECULATION, return_counts=True))
    assert module.for_responses([asked, other]) == {}
    asked.finished = other.finished = lambda: True
    [summary], nothing = module.for_responses([asked, other])["nemotron_diffusion"]
    assert nothing == []
    assert (summary["tokens"], summary["accepted_drafts"]) == (5, [3])
    assert summary["forwards"] == {"prefill": 1, "draft": 1, "denoise": 0, "verify": 1}


@pytest.mark.parametrize("gone", [req(finished=True), req(retracted=True)], ids=["finished", "retracted"])
def test_the_step_too_many_of_the_overlap_schedule_is_not_counted(
    gone: Any, counted: Counters, values: Any
) -> None:
    counted.step_begun(report((gone, SPECULATION, 1, 0, 8), (req(), AR, 0, 0, 1)))
    counted.step_done([4, 0])
    assert values() == {("forwards", "ar", "verify"): 1}


def test_decisions_of_the_policy(counted: Counters, values: Any) -> None:
    counted.chosen([1, 2, 6, 6, 7, 12])
    assert values() == {
        ("policy_decisions", "1"): 1,
        ("policy_decisions", "6"): 3,
        ("policy_decisions", "12"): 2,
    }


@pytest.mark.parametrize("exported", [True, False])
def test_the_policy_hears_of_verified_drafts_in_auto(registry: Any, exported: bool) -> None:
    heard: list[tuple[Any, int, int]] = []
    counters = Counters(
        _Metrics(MODEL) if exported else None, lambda *verified: heard.append((verified[0], *verified[1:]))
    )
    one, two, gone = req(), req(), req(finished=True)
    counters.step_begun(
        report(
            (one, AUTO, 1, 0, 8), (two, AUTO, 0, 0, 1), (req(), SPECULATION, 1, 0, 8), (gone, AUTO, 1, 0, 8)
        )
    )
    counters.step_done([3, 0, 2, 1])
    assert heard == [(one, 7, 3)]


def test_forwards_of_the_whole_batch(counted: Counters, values: Any) -> None:
    counted.engine_forward("causal")
    counted.engine_forward("bidirectional", 3)
    counted.engine_forward("bidirectional", 0)
    assert values() == {("engine_forwards", "causal"): 1, ("engine_forwards", "bidirectional"): 3}


class TestReturned:
    def test_nothing_is_counted_twice(self, counted: Counters, values: Any) -> None:
        one = req(output=0)
        counted.returned(one, in_mode(DIFFUSION))
        assert values() == {}
        for output, expected in ((1, 1), (1, 1), (9, 9), (9, 9), (12, 12)):
            one.output_ids = [0] * output
            counted.returned(one, in_mode(DIFFUSION))
            assert values() == {
                ("requests", "diffusion"): 1,
                ("forwards", "diffusion", "prefill"): 1,
                ("generated_tokens", "diffusion"): expected,
            }

    def test_tokens_behind_the_end_are_not_returned(self, counted: Counters, values: Any) -> None:
        counted.returned(req(output=9, end=6), in_mode(AR))
        assert values()["generated_tokens", "ar"] == 6

    def test_a_retracted_token_comes_back_once(self, counted: Counters, values: Any) -> None:
        """A diffusion request gives its last token back and gets it again with its prefill."""
        one = req(output=9)
        counted.returned(one, in_mode(DIFFUSION))
        for output in (8, 9, 10):
            one.output_ids = [0] * output
            counted.returned(one, in_mode(DIFFUSION))
        assert values()["generated_tokens", "diffusion"] == 10
        assert values()["requests", "diffusion"] == 1

    def test_requests_are_told_apart(self, counted: Counters, values: Any) -> None:
        for mode in (AR, AR, SPECULATION):
            counted.returned(req(output=2), in_mode(mode))
        assert values()["requests", "ar"] == 2
        assert values()["generated_tokens", "ar"] == 4
        assert values()["generated_tokens", "self_speculation"] == 2


def test_without_metrics_nothing_piles_up() -> None:
    silent = Counters(None)
    for _ in range(3):
        silent.engine_forward("causal")
        silent.step_begun(report((req(), AR, 0, 0, 1)))
        silent.step_done([0])
    silent.returned(req(output=3), in_mode(AR))
    assert not silent._pending


@pytest.mark.engine
class TestForServer:
    @pytest.fixture(autouse=True)
    def _process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_of_process", None)

    @pytest.mark.parametrize(
        ("enabled", "rank", "exported"), [(True, 0, True), (False, 0, False), (True, 1, False)]
    )
    def test_the_first_rank_exports(
        self, enabled: bool, rank: int, exported: bool, registry: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        context = pytest.importorskip("sglang.srt.runtime_context")
        monkeypatch.setattr(context, "get_parallel", lambda: SimpleNamespace(tp_rank=rank))
        monkeypatch.setattr(context, "get_serving", lambda: SimpleNamespace(served_model_name=MODEL))
        given = SimpleNamespace(extra_metric_labels={"zone": "a"})
        monkeypatch.setattr(context, "get_observability", lambda: given)
        assert module.of_process() is None
        # Before SGLang resolves them a server's arguments name no model.
        made = Counters.for_server(SimpleNamespace(enable_metrics=enabled, served_model_name=None))
        assert module.of_process() is made
        samples = [sample for family in registry.collect() for sample in family.samples]
        assert bool(samples) is exported
        labels = {(sample.labels["model_name"], sample.labels["zone"]) for sample in samples}
        assert labels == ({(MODEL, "a")} if exported else set())
