"""Patches: applied once, loud when they do nothing, and without effect on other models."""

from __future__ import annotations

import asyncio
import pkgutil
import threading
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from nemotron_diffusion_patches import Description, Patch
from nemotron_diffusion_patches.inventory import descriptions

pytestmark = pytest.mark.engine


def a_patch(install: Any, is_applied: Any) -> Patch:
    return Patch(Description("name", ("target",), "reason", "upstream", "never"), install, is_applied)


def test_applied_once() -> None:
    calls: list[int] = []
    patch = a_patch(lambda: calls.append(1), lambda: bool(calls))
    for _ in range(3):
        patch.apply()
    assert calls == [1]


def test_without_effect_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="patch name of target did not take effect"):
        a_patch(lambda: None, lambda: False).apply()


class TestOnVllm:
    """The real patches, in this process; all of them leave other configurations alone."""

    @pytest.fixture(autouse=True)
    def _registered(self) -> None:
        pytest.importorskip("vllm")
        from nemotron_diffusion_plugin.vllm import register

        register()

    def test_every_patch_is_applied_and_described(self) -> None:
        from nemotron_diffusion_plugin.vllm.engine_patches import engine_patches
        from nemotron_diffusion_plugin.vllm.registration import diagnose_all

        patches = engine_patches()
        assert len({patch.name for patch in patches}) == len(patches)
        for patch in patches:
            assert patch.is_applied(), patch.name
            assert patch.about in descriptions("vllm")
        assert [row for row in diagnose_all() if not row[1]] == []

    @pytest.mark.parametrize("about", descriptions("vllm"), ids=lambda about: about.name)
    def test_every_target_exists(self, about: Description) -> None:
        for target in about.targets:
            assert pkgutil.resolve_name(target) is not None

    def test_a_second_registration_wraps_nothing_again(self) -> None:
        import vllm.v1.worker.gpu.spec_decode as factory
        from vllm.config.vllm import VllmConfig

        from nemotron_diffusion_plugin.vllm import register

        before = VllmConfig.num_lookahead_tokens, factory.init_speculator
        register()
        assert (VllmConfig.num_lookahead_tokens, factory.init_speculator) == before

    def test_lookahead_is_that_of_a_block_for_ours_only(self) -> None:
        from vllm.config.vllm import VllmConfig

        from nemotron_diffusion_plugin.vllm.identity import SPECULATIVE_METHOD

        lookahead = VllmConfig.num_lookahead_tokens.fget
        ours = SimpleNamespace(method=SPECULATIVE_METHOD)
        config = SimpleNamespace(speculative_config=ours, num_speculative_tokens=31)
        assert lookahead(config) == 32
        ngram = SimpleNamespace(method="ngram")
        ngram.use_eagle = ngram.uses_draft_model = ngram.uses_extract_hidden_states = lambda: False
        other = VllmConfig()
        assert lookahead(other) == 0

    def test_async_scheduling_keeps_the_other_methods(self) -> None:
        import vllm.config.vllm as module

        from nemotron_diffusion_patches.vllm import async_scheduling
        from nemotron_diffusion_plugin.vllm.identity import SPECULATIVE_METHOD
        from nemotron_diffusion_plugin.vllm.versions import needs

        names = get_args(module.NgramGPUTypes)
        assert names.count(SPECULATIVE_METHOD) == int(needs(async_scheduling.ABOUT))
        assert set(names) - {SPECULATIVE_METHOD}

    def test_factory_builds_ours_where_the_config_names_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import vllm.v1.worker.gpu.spec_decode as factory

        from nemotron_diffusion_patches.vllm import speculator_factory

        built: list[object] = []
        monkeypatch.delattr(factory, "_nemotron_diffusion_speculator_factory")
        monkeypatch.setattr(factory, "init_speculator", lambda *arguments: "vLLM's")
        patch = speculator_factory.patch(
            lambda config: config == "ours", lambda *a: built.append(a) or "ours"
        )
        assert not patch.is_applied()
        patch.apply()
        assert factory.init_speculator("ours", "device", "states") == "ours"
        assert factory.init_speculator("other", "device", "states") == "vLLM's"
        assert built == [("ours", "device", "states")]

    def test_report_travels_with_the_output(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from vllm.v1.worker.gpu.model_runner import GPUModelRunner

        from nemotron_diffusion_patches.vllm import step_report

        plain, wrapped = SimpleNamespace(), SimpleNamespace(model_runner_output=SimpleNamespace())
        outputs = iter([plain, wrapped, None, SimpleNamespace()])
        monkeypatch.setattr(GPUModelRunner, "sample_tokens", lambda self: next(outputs))
        reports = iter(["first", "second", "third", None])
        step_report.patch(lambda runner: next(reports)).apply()
        sample = GPUModelRunner.sample_tokens
        assert getattr(sample(None), step_report.REPORT_ATTRIBUTE) == "first"
        assert getattr(sample(None).model_runner_output, step_report.REPORT_ATTRIBUTE) == "second"
        assert sample(None) is None
        assert not hasattr(sample(None), step_report.REPORT_ATTRIBUTE)

    def test_the_speculator_hears_when_its_worker_is_warm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import vllm.v1.worker.cpu_worker as cpu
        import vllm.v1.worker.gpu_worker as gpu

        from nemotron_diffusion_patches.vllm import worker_warm_up

        for worker in (cpu.CPUWorker, gpu.Worker):
            monkeypatch.setattr(worker, "compile_or_warm_up_model", lambda self, more=0: ("times", more))
        seen: list[Any] = []
        patch = worker_warm_up.patch(seen.append)
        assert not patch.is_applied()
        for _ in range(2):
            patch.apply()
        assert patch.is_applied()
        for worker in (cpu.CPUWorker, gpu.Worker):
            one = object.__new__(worker)
            one.model_runner = worker.__name__
            assert one.compile_or_warm_up_model(more=3) == ("times", 3)
        assert seen == ["CPUWorker", "Worker"], "once each, though it was applied twice"

    def test_what_a_request_took_is_added_to_its_span(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import vllm.v1.engine.output_processor as module

        from nemotron_diffusion_patches.vllm import span_attributes

        spans: list[dict[str, Any]] = []
        monkeypatch.setattr(module, span_attributes._MARK, False, raising=False)
        monkeypatch.setattr(module, "instrument_manual", lambda **span: spans.append(span))
        monkeypatch.setattr(module.OutputProcessor, "do_tracing", _traced)
        span_attributes.patch("key", lambda counts: {"ours": counts}).apply()
        processor = object.__new__(module.OutputProcessor)
        for carried in ({"key": 5, "other": 1}, {"other": 1}, None):
            processor.do_tracing(SimpleNamespace(kv_transfer_params=carried), "state", None)
        assert [span["attributes"] for span in spans] == [{"its": 1, "ours": 5}, {"its": 1}, {"its": 1}]
        module.instrument_manual(span_name="another", attributes={"its": 2})
        assert spans[-1] == {"span_name": "another", "attributes": {"its": 2}}

    def test_other_speculators_keep_refusing_min_p_and_logit_bias(self) -> None:
        from vllm.exceptions import VLLMValidationError
        from vllm.sampling_params import SamplingParams

        from nemotron_diffusion_plugin.vllm.identity import SPECULATIVE_METHOD

        ours, ngram = SimpleNamespace(method=SPECULATIVE_METHOD), SimpleNamespace(method="ngram")
        for params in (SamplingParams(min_p=0.2), SamplingParams(logit_bias={5: 1.0})):
            params._validate_spec_decode(ours)
            params._validate_spec_decode(None)
            with pytest.raises(VLLMValidationError, match="min_p and logit_bias"):
                params._validate_spec_decode(ngram)

    def test_the_plan_of_drafts_reaches_the_worker(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from vllm.v1.worker.gpu.model_runner import GPUModelRunner

        from nemotron_diffusion_patches.vllm import draft_plan

        monkeypatch.setattr(GPUModelRunner, "execute_model", lambda self, output, more=0: (output, more))
        seen: list[tuple[Any, Any]] = []
        draft_plan.patch(lambda runner, plan: seen.append((runner, plan))).apply()
        plain, marked = SimpleNamespace(), SimpleNamespace(**{draft_plan.PLAN_ATTRIBUTE: "a plan"})
        runner = object.__new__(GPUModelRunner)
        assert runner.execute_model(marked) == (marked, 0)
        assert runner.execute_model(plain, more=3) == (plain, 3)
        assert seen == [(runner, "a plan"), (runner, None)], "a plan holds for its own step"

    def test_reloads_come_by_the_plugin(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from vllm.v1.worker.gpu.model_runner import GPUModelRunner

        from nemotron_diffusion_patches.vllm import reload_weights

        calls: list[Any] = []
        monkeypatch.setattr(GPUModelRunner, "reload_weights", lambda *asked: calls.append(asked))
        asked: list[Any] = []
        reload_weights.patch(lambda runner, run, *how: asked.append(how) or run()).apply()
        runner = object.__new__(GPUModelRunner)
        runner.reload_weights()
        runner.reload_weights(weights_path="/new")
        runner.reload_weights([], is_checkpoint_format=False)
        assert asked == [(True, None), (True, "/new"), (False, None)]
        assert calls == [
            (runner, None, None, True),
            (runner, None, "/new", True),
            (runner, [], None, False),
        ]

    def test_transfers_run_inside_what_keeps_the_weights(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from contextlib import contextmanager

        from vllm.v1.worker.gpu_worker import Worker

        from nemotron_diffusion_patches.vllm import weight_transfer

        log: list[Any] = []

        @contextmanager
        def keeping(worker: Any) -> Any:
            log.append("in")
            yield
            log.append("out")

        for name in ("update_weights", "finish_weight_update"):
            monkeypatch.setattr(Worker, name, lambda self, *info, name=name: log.append((name, *info)))
        weight_transfer.patch(keeping).apply()
        worker = object.__new__(Worker)
        worker.update_weights({"path": "x"})
        worker.finish_weight_update()
        assert log == ["in", ("update_weights", {"path": "x"}), "out", "in", ("finish_weight_update",), "out"]

    def test_block_lengths_travel_to_other_processes_and_grammars_do_not(self) -> None:
        """Workers of a tensor-parallel server get the step pickled."""
        import pickle

        from vllm.v1.core.sched.output import SchedulerOutput

        from nemotron_diffusion_patches.vllm.draft_plan import PLAN_ATTRIBUTE
        from nemotron_diffusion_plugin.vllm.messages import DraftPlan

        output = SchedulerOutput.make_empty()
        setattr(output, PLAN_ATTRIBUTE, DraftPlan({"a": 8}, {"a": threading.Lock()}))  # type: ignore[dict-item]
        assert getattr(pickle.loads(pickle.dumps(output)), PLAN_ATTRIBUTE) == DraftPlan({"a": 8}, {})

    def test_requests_are_validated_before_they_are_answered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from vllm.entrypoints.openai.completion.protocol import CompletionRequest
        from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

        from nemotron_diffusion_patches.vllm import request_validation

        seen: list[Any] = []
        tokens: list[Any] = []
        beams: list[Any] = []
        for request in request_validation._requests():
            for name in ("to_sampling_params", "to_beam_search_params"):
                if hasattr(request, name):
                    monkeypatch.setattr(request, name, getattr(request, name))
            monkeypatch.setattr(request, request_validation._MARK, False, raising=False)
        serving = request_validation._serving_tokens()
        monkeypatch.setattr(serving, "serve_tokens", serving.serve_tokens)
        monkeypatch.setattr(serving, request_validation._MARK, False, raising=False)
        request_validation.patch(
            lambda *both: seen.append(both), lambda *both: tokens.append(both), beams.append
        ).apply()
        options = {"decoding_mode": "ar"}
        request = CompletionRequest(model="m", prompt=[1], max_tokens=3, vllm_xargs=options)
        params = request.to_sampling_params(3, {})
        assert beams == []
        request.to_beam_search_params(3, {})
        assert beams == [options]
        assert (
            [(asked, made.max_tokens) for asked, made in seen]
            == [(request, params.max_tokens)]
            == [(request, 3)]
        )
        response = ResponsesRequest(model="m", input="hi", max_output_tokens=2, vllm_xargs=options)
        response.to_sampling_params(8, {})
        assert seen[1][1].max_tokens == 2

    def test_requests_to_generate_from_tokens_are_validated_before_they_are_answered(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from nemotron_diffusion_patches.vllm import request_validation

        async def answers(self: Any, request: Any, raw: Any) -> str:
            return f"answers {request.sampling_params}"

        def validate(params: str, defaults: Any) -> None:
            assert defaults == {}
            if params == "bad":
                raise ValueError("no")

        serving = request_validation._serving_tokens()
        monkeypatch.setattr(serving, "serve_tokens", answers)
        monkeypatch.setattr(serving, request_validation._MARK, False, raising=False)
        request_validation._wrap_serving(serving, validate)
        handler = SimpleNamespace(create_error_response=lambda error: f"error {error}")
        for params, said in (("good", "answers good"), ("bad", "error no")):
            asked = SimpleNamespace(sampling_params=params)
            assert asyncio.run(serving.serve_tokens(handler, asked, None)) == said

    def test_a_request_can_do_without_a_grammar_of_its_tools(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from vllm.parser.abstract_parser import DelegatingParser

        from nemotron_diffusion_patches.vllm import tool_constraints

        monkeypatch.setattr(
            DelegatingParser, "_apply_structural_tag", lambda self, request: f"{request} with a grammar"
        )
        tool_constraints.patch(lambda request: request == "constrained").apply()
        assert DelegatingParser._apply_structural_tag(None, "constrained") == "constrained with a grammar"
        assert DelegatingParser._apply_structural_tag(None, "free") == "free"


def _traced(self: Any, output: Any, state: Any, stats: Any) -> None:
    import vllm.v1.engine.output_processor as module

    module.instrument_manual(span_name="llm_request", attributes={"its": 1})
