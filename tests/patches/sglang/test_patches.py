"""Patches of SGLang: their targets exist, they are registered once, and they leave other algorithms alone."""

from __future__ import annotations

import inspect
import pkgutil
from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("sglang")

from sglang.srt.managers import io_struct
from sglang.srt.plugins.hook_registry import HookRegistry, HookType

from nemotron_diffusion_patches.inventory import descriptions
from nemotron_diffusion_patches.sglang import (
    HookPatch,
    admission_check,
    cuda_graph_runner,
    finish_check,
    last_output,
    logits_rows,
    openai_parameters,
    request_rows,
    request_validation,
    retraction,
    returned_tokens,
    span_attributes,
    waiting_requests,
    weights_from_disk,
    weights_from_tensor,
)
from nemotron_diffusion_plugin.sglang.identity import ALGORITHM, is_ours
from nemotron_diffusion_plugin.sglang.registration import engine_patches

pytestmark = pytest.mark.engine

PARAMETERS = {
    "chat-parameters": [
        *(
            "self",
            "stop",
            "model_generation_config",
            "tool_call_constraint",
            "renderer_handles_response_format",
        )
    ],
    "responses-parameters": ["self", "default_max_tokens", "default_params", "stop", "tool_call_constraint"],
    "request-validation": [
        *("self", "obj", "input_text", "input_ids", "input_embeds", "mm_inputs", "token_type_ids")
    ],
    "admission-check": ["self", "req"],
    "retraction": ["self"],
    "request-rows": [],
    "waiting-requests": ["self", "num_correct_drafts"],
    "finish-check": ["self", "new_accepted_len"],
    "last-output": ["self"],
    "returned-tokens": ["self", "reqs", "return_logprob", "skip_req"],
    "response-counts": ["self", "reqs"],
    "meta-info": ["self", "meta_info", "state", "customized_info", "index", "finish_reason"],
    "span-attributes": ["self", "state", "recv_obj", "i"],
    "cuda-graph-runner": ["self"],
    "logits-rows": ["self"],
    "weights-from-disk": [
        *("self", "model_path", "load_format", "weight_name_filter", "recapture_cuda_graph")
    ],
    "weights-from-tensor": ["self", "named_tensors", "load_format"],
}
PATCHES = engine_patches()
OURS = SimpleNamespace(name=ALGORITHM)
OTHER = SimpleNamespace(name="EAGLE")

each_patch = pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)


def owner_of(patch: HookPatch) -> tuple[Any, str]:
    """What holds the patched function, and the function's name there."""
    owner, name = patch.target.rsplit(".", 1)
    return pkgutil.resolve_name(owner), name


@pytest.fixture(autouse=True)
def _empty_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HookRegistry, "_hooks", defaultdict(list))
    monkeypatch.setattr(HookRegistry, "_patched", set())


PutInPlace = Callable[[HookPatch, Callable[..., Any]], Callable[..., Any]]


@pytest.fixture
def put_in_place(monkeypatch: pytest.MonkeyPatch) -> PutInPlace:
    """Puts a stand-in where SGLang's function is, has SGLang apply the patch, and returns what is there now."""

    def put(patch: HookPatch, original: Callable[..., Any]) -> Callable[..., Any]:
        owner, name = owner_of(patch)
        monkeypatch.setattr(owner, name, original)
        patch.apply()
        HookRegistry.apply_hooks()
        patched: Callable[..., Any] = getattr(owner, name)
        assert patched is not original
        return patched

    return put


class Original:
    """A stand-in that notes what it is called with."""

    def __init__(self, result: object = None) -> None:
        self.result = result
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.__name__ = self.__qualname__ = "original"

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        self.calls.append((arguments, keywords))
        return self.result


def test_every_patch_is_known_here() -> None:
    assert {patch.name for patch in PATCHES} == PARAMETERS.keys()
    assert len(PATCHES) == len(PARAMETERS)


@each_patch
def test_target_has_the_expected_parameters(patch: HookPatch) -> None:
    owner, name = owner_of(patch)
    function = inspect.unwrap(inspect.getattr_static(owner, name))
    assert inspect.isfunction(function)
    assert list(inspect.signature(function).parameters) == PARAMETERS[patch.name]


@each_patch
def test_registered_once_and_applied_by_sglang(patch: HookPatch, put_in_place: PutInPlace) -> None:
    for again in (patch, patch, next(other for other in engine_patches() if other.name == patch.name)):
        again.apply()
        [(kind, _, _)] = HookRegistry._hooks[patch.target]
        assert kind is HookType.AROUND
        assert not patch.is_applied()
    put_in_place(patch, Original())
    assert patch.is_applied()
    patch.apply()
    assert len(HookRegistry._hooks[patch.target]) == 1


@each_patch
def test_hooks_of_other_plugins_stay(patch: HookPatch) -> None:
    def somebody_elses(original: Callable[..., Any], *arguments: Any) -> Any:
        return original(*arguments)

    HookRegistry.register(patch.target, somebody_elses, HookType.AROUND)
    assert not patch.is_applied()
    patch.apply()
    assert len(HookRegistry._hooks[patch.target]) == 2


def test_a_target_that_is_gone_is_not_applied(put_in_place: PutInPlace, monkeypatch: Any) -> None:
    patch = waiting_requests.patch()
    owner, name = owner_of(patch)
    monkeypatch.delattr(owner, name)
    patch.apply()
    HookRegistry.apply_hooks()
    assert not patch.is_applied()


def test_inventory_lists_every_patch() -> None:
    listed = [about.name for about in descriptions("sglang")]
    assert sorted(listed) == sorted(patch.name for patch in PATCHES)


class TestAdmissionCheck:
    @pytest.mark.parametrize("algorithm", [OTHER, None])
    def test_other_algorithms_are_left_alone(self, algorithm: object, put_in_place: PutInPlace) -> None:
        original = Original("SGLang's own message")
        asked = Original("ours")
        check = put_in_place(admission_check.patch(is_ours, asked), original)
        scheduler = SimpleNamespace(spec_algorithm=algorithm)
        assert check(scheduler, "request") == "SGLang's own message"
        assert original.calls == [((scheduler, "request"), {})]
        assert asked.calls == []

    def test_our_message_wins(self, put_in_place: PutInPlace) -> None:
        original = Original("SGLang's own message")
        check = put_in_place(admission_check.patch(is_ours, lambda req: f"no {req}"), original)
        assert check(SimpleNamespace(spec_algorithm=OURS), "request") == "no request"
        assert original.calls == []

    def test_what_we_accept_sglang_is_asked_about(self, put_in_place: PutInPlace) -> None:
        original = Original("SGLang's own message")
        check = put_in_place(admission_check.patch(is_ours, lambda req: None), original)
        assert check(SimpleNamespace(spec_algorithm=OURS), "request") == "SGLang's own message"


class TestCudaGraphRunner:
    def test_ours(self, put_in_place: PutInPlace) -> None:
        original = Original("SGLang's")
        runner = put_in_place(cuda_graph_runner.patch(is_ours, lambda: dict), original)
        assert runner(SimpleNamespace(spec_algorithm=OURS)) is dict
        assert original.calls == []

    def test_other_algorithms_do_not_even_import_ours(self, put_in_place: PutInPlace) -> None:
        asked = Original()
        runner = put_in_place(cuda_graph_runner.patch(is_ours, asked), Original("SGLang's"))
        assert runner(SimpleNamespace(spec_algorithm=OTHER)) == "SGLang's"
        assert asked.calls == []


class TestLogitsRows:
    def test_only_for_ours(self, put_in_place: PutInPlace) -> None:
        rows = put_in_place(logits_rows.patch(is_ours, lambda runner, rows: rows // 4), Original(8192))
        assert rows(SimpleNamespace(spec_algorithm=OURS)) == 2048
        assert rows(SimpleNamespace(spec_algorithm=OTHER)) == 8192


class TestFinishCheck:
    def test_nothing_new_ends_nothing(self, put_in_place: PutInPlace) -> None:
        original = Original()
        update = put_in_place(finish_check.patch(), original)
        for to_finish in (None, False):
            update(SimpleNamespace(to_finish=to_finish), 0)
            update(SimpleNamespace(to_finish=to_finish), new_accepted_len=0)
        assert original.calls == []

    def test_an_abort_ends_a_request_that_waits(self, put_in_place: PutInPlace) -> None:
        original = Original()
        req = SimpleNamespace(to_finish="abort")
        put_in_place(finish_check.patch(), original)(req, 0)
        assert original.calls == [((req, 0), {})]

    def test_new_tokens_are_looked_at(self, put_in_place: PutInPlace) -> None:
        original = Original()
        update = put_in_place(finish_check.patch(), original)
        req = SimpleNamespace(to_finish=None)
        update(req)
        update(req, 3)
        assert original.calls == [((req, 1), {}), ((req, 3), {})]


class TestLastOutput:
    @pytest.mark.parametrize(
        ("finishes", "may_wait", "expected"),
        [(True, False, True), (True, True, False), (False, False, False), (False, True, False)],
    )
    def test_who_may_wait_does_not_end(
        self, finishes: bool, may_wait: bool, expected: bool, put_in_place: PutInPlace
    ) -> None:
        original, asked = Original(finishes), Original(may_wait)
        ends = put_in_place(last_output.patch(asked), original)
        assert ends("request") is expected
        assert original.calls == [(("request",), {})]
        assert all(call == (("request",), {}) for call in asked.calls)


class TestRequestRows:
    @pytest.fixture
    def sizes(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
        """Sets what SGLang reserves in a step, its page size and its algorithm."""
        import sglang.srt.mem_cache.allocation_sizing as sizing
        import sglang.srt.runtime_context as context

        def choose(algorithm: str | None, reserve: int = 64, page: int = 1) -> None:
            monkeypatch.setattr(sizing, "get_alloc_reserve_per_decode", lambda: reserve)
            monkeypatch.setattr(sizing, "get_alloc_page_size", lambda: page)
            monkeypatch.setattr(context, "get_spec", lambda: SimpleNamespace(speculative_algorithm=algorithm))

        return choose

    @pytest.mark.parametrize(
        ("reserve", "page", "original", "expected"), [(64, 1, 36, 64), (64, 16, 36, 79), (8, 1, 36, 36)]
    )
    def test_room_for_what_a_step_reserves(
        self,
        reserve: int,
        page: int,
        original: int,
        expected: int,
        sizes: Callable[..., None],
        put_in_place: PutInPlace,
    ) -> None:
        extra = put_in_place(request_rows.patch(ALGORITHM), Original(original))
        sizes(ALGORITHM, reserve, page)
        assert extra() == expected

    @pytest.mark.parametrize("algorithm", [None, "EAGLE"])
    def test_rows_of_other_algorithms_stay(
        self, algorithm: str | None, sizes: Callable[..., None], put_in_place: PutInPlace
    ) -> None:
        extra = put_in_place(request_rows.patch(ALGORITHM), Original(36))
        sizes(algorithm)
        assert extra() == 36


class TestRequestValidation:
    def test_after_tokenizing_before_returning(self, put_in_place: PutInPlace) -> None:
        original, validate = Original("tokenized"), Original()
        create = put_in_place(request_validation.patch(validate), original)
        assert create("manager", "obj", "text", input_ids=[1]) == "tokenized"
        assert original.calls == [(("manager", "obj", "text"), {"input_ids": [1]})]
        assert validate.calls == [(("manager", "obj", "tokenized"), {})]

    def test_a_refusal_comes_through(self, put_in_place: PutInPlace) -> None:
        def refuse(manager: Any, given: Any, request: Any) -> None:
            raise ValueError(f"no {request}")

        create = put_in_place(request_validation.patch(refuse), Original("tokenized"))
        with pytest.raises(ValueError, match="no tokenized"):
            create("manager", "obj", "text", [1])


class TestOpenAIParameters:
    @pytest.mark.parametrize("kind", [0, 1], ids=["chat", "responses"])
    @pytest.mark.parametrize("kept", [True, False])
    def test_defaults_are_applied_and_a_grammar_of_the_tools_dropped(
        self, kind: int, kept: bool, put_in_place: PutInPlace
    ) -> None:
        original = Original({"top_p": 0.9, "n": 1})
        asked: list[Any] = []

        def changes(request: Any, constrained: bool) -> dict[str, Any] | None:
            asked.append((request, constrained))
            return None if kept else {"top_p": 1.0, "of another kind of request": 2}

        convert = put_in_place(openai_parameters.patches(changes)[kind], original)
        expected = {"top_p": 0.9 if kept else 1.0, "n": 1}
        assert convert("request", ["x"], tool_call_constraint="grammar", other=3) == expected
        constraint = "grammar" if kept else None
        assert original.calls == [(("request", ["x"]), {"tool_call_constraint": constraint, "other": 3})]
        assert convert("request", ["x"]) == expected
        assert asked == [("request", True), ("request", False)]


class TestRetraction:
    def test_the_seed_is_given_back_before_the_reset(self, put_in_place: PutInPlace) -> None:
        order: list[str] = []

        def original(self: Any, *arguments: Any, **keywords: Any) -> str:
            order.append(f"reset {self} {arguments} {keywords}")
            return "result"

        reset = put_in_place(retraction.patch(lambda req: order.append(f"seed {req}")), original)
        assert reset("request", 1, option=2) == "result"
        assert order == ["seed request", "reset request (1,) {'option': 2}"]


class TestReturnedTokens:
    def test_only_what_is_to_be_sent_is_streamed(self, put_in_place: PutInPlace) -> None:
        original, take_in = Original("result"), Original(["b"])
        stream = put_in_place(returned_tokens.patch(take_in), original)
        assert stream("streamer", ("a", "b"), True, skip_req="a") == "result"
        assert take_in.calls == [((["a", "b"],), {})]
        assert original.calls == [(("streamer", ["b"], True), {"skip_req": "a"})]


class TestWaitingRequests:
    def test_a_step_without_a_token_is_taken_back(self, put_in_place: PutInPlace) -> None:
        """SGLang adds 1 and -1 just before it updates the histogram."""
        original = Original()
        update = put_in_place(waiting_requests.patch(), original)
        req = SimpleNamespace(spec_verify_ct=4 + 1, spec_num_correct_drafts=20 - 1)
        update(req, -1)
        assert (req.spec_verify_ct, req.spec_num_correct_drafts) == (4, 20)
        assert original.calls == []

    @pytest.mark.parametrize("drafts", [0, 1, 31])
    def test_every_other_step_passes(self, drafts: int, put_in_place: PutInPlace) -> None:
        original = Original()
        update = put_in_place(waiting_requests.patch(), original)
        req = SimpleNamespace(spec_verify_ct=5, spec_num_correct_drafts=20)
        update(req, drafts)
        assert original.calls == [((req, drafts), {})]
        assert vars(req) == {"spec_verify_ct": 5, "spec_num_correct_drafts": 20}

    def test_sglang_adds_both_right_before(self) -> None:
        processor = pkgutil.resolve_name("sglang.srt.managers.scheduler_components.batch_result_processor")
        lines = [line.strip() for line in inspect.getsource(processor).splitlines() if line.strip()]
        place = lines.index("req.update_spec_correct_drafts_histogram(num_correct_drafts)")
        assert lines[place - 1] == "req.spec_num_correct_drafts += num_correct_drafts"
        assert "req.spec_verify_ct += 1" in lines[place - 5 : place]


class TestWeightsFromDisk:
    def test_the_update_decides_when_sglang_s_runs(self, put_in_place: PutInPlace) -> None:
        original, asked = Original((True, "SGLang's")), []

        def ours(updater: Any, path: str, run: Callable[[], Any]) -> Any:
            asked.append((updater, path))
            return run() if path == "/good" else (False, "no")

        update = put_in_place(weights_from_disk.patch(ours), original)
        assert update("updater", "/good", "auto", recapture_cuda_graph=True) == (True, "SGLang's")
        assert update("updater", model_path="/bad", load_format="auto") == (False, "no")
        assert asked == [("updater", "/good"), ("updater", "/bad")]
        assert original.calls == [(("updater", "/good", "auto"), {"recapture_cuda_graph": True})]


class TestWeightsFromTensor:
    def test_the_update_decides_when_sglang_s_runs(self, put_in_place: PutInPlace) -> None:
        original = Original((True, "SGLang's"))
        update = put_in_place(weights_from_tensor.patch(lambda updater, run: run()), original)
        assert update("updater", named_tensors=[], load_format=None) == (True, "SGLang's")
        assert original.calls == [(("updater",), {"named_tensors": [], "load_format": None})]


class TestSpanAttributes:
    ADDED = staticmethod(lambda counts: {"ours": counts})

    def test_what_a_request_took_is_added_to_its_span(self, put_in_place: PutInPlace) -> None:
        convert = put_in_place(
            span_attributes.patch("key", self.ADDED), lambda self, state, out, i: {"its": i}
        )
        output = SimpleNamespace(customized_info={"key": [["first"], []]})
        assert convert("manager", "state", output, 0) == {"its": 0, "ours": "first"}
        assert convert("manager", "state", output, 1) == {"its": 1}, "it did not ask"
        for other in (SimpleNamespace(customized_info=None), SimpleNamespace()):
            assert convert("manager", "state", other, 0) == {"its": 0}

    def test_in_the_wrapper_of_sglang_s_other_transport(
        self, put_in_place: PutInPlace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(io_struct, "_USE_PICKLE_IPC", False)
        convert = put_in_place(
            span_attributes.patch("key", self.ADDED), lambda self, state, out, i: {"its": i}
        )
        output = SimpleNamespace(customized_info=io_struct.wrap_as_pickle({"key": [["first"]]}))
        assert convert("manager", "state", output, 0) == {"its": 0, "ours": "first"}

    def test_nothing_is_added_where_nothing_is_traced(self, put_in_place: PutInPlace) -> None:
        convert = put_in_place(span_attributes.patch("key", self.ADDED), lambda self, state, out, i: {})
        assert convert("manager", "state", SimpleNamespace(customized_info={"key": [["first"]]}), 0) == {}
