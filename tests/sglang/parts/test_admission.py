"""The admission checks on SGLang's own sampling parameters, in the scheduler and in the tokenizer manager."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("sglang")

from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest
from sglang.srt.sampling.sampling_params import TOP_K_ALL, SamplingParams

from nemotron_diffusion_plugin.model.spec import TEXT
from nemotron_diffusion_plugin.options import MAX_STOP_IDS, DecodingMode, OptionError
from nemotron_diffusion_plugin.serving.refusals import refuse_in_diffusion
from nemotron_diffusion_plugin.settings import ServerSettings
from nemotron_diffusion_plugin.sglang import settings as server
from nemotron_diffusion_plugin.sglang.front import admission
from nemotron_diffusion_plugin.sglang.identity import ALGORITHM
from nemotron_diffusion_plugin.sglang.settings import VARIABLE
from tests.common.bad_options import OPTIONS

pytestmark = pytest.mark.engine

DIFFUSION = {"decoding_mode": "diffusion"}
NOT_OURS = {"threshold": "not ours"}
SETTINGS = ServerSettings.read(32, None)
CONSTRAINTS = {"json_schema": "{}", "regex": "a+", "ebnf": "root ::= 'a'", "structural_tag": "{}"}
REFUSED_IN_DIFFUSION: list[tuple[dict[str, Any], object]] = [
    ({"top_p": 0.5}, 1.0),
    ({"top_k": 4}, -1),
    ({"min_p": 0.1}, 0.0),
    ({"presence_penalty": 0.1}, 0.0),
    ({"frequency_penalty": -0.1}, 0.0),
    ({"repetition_penalty": 1.1}, 1.0),
    ({"logit_bias": {"5": 1.0}}, None),
    *(({name: value}, None) for name, value in CONSTRAINTS.items()),
]


@pytest.fixture(autouse=True)
def _server(monkeypatch: pytest.MonkeyPatch) -> None:
    import sglang.srt.runtime_context as context

    monkeypatch.setattr(server, "_served", SETTINGS)
    monkeypatch.setattr(admission, "_settings", SETTINGS)
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setattr(context, "get_spec", lambda: SimpleNamespace(speculative_algorithm=ALGORITHM))
    monkeypatch.setattr(context, "get_serving", lambda: SimpleNamespace(enable_strict_thinking=True))


def request(options: Any = None, **params: Any) -> Any:
    """A request as the scheduler has it; names that are not sampling parameters become its own."""
    own = {name: params.pop(name) for name in admission._REFUSED if name in params}
    return SimpleNamespace(
        sampling_params=SamplingParams(**{"temperature": 0.7, **params}, custom_params=options),
        eos_token_ids={2},
        tokenizer=None,
        top_logprobs_num=0,
        **own,
    )


def manager(architectures: Any = (TEXT.architecture,)) -> Any:
    """SGLang's tokenizer manager for a model of these architectures."""
    hf_config = SimpleNamespace(architectures=architectures, block_size=32)
    model_config = SimpleNamespace(hf_config=hf_config, vocab_size=100, hidden_size=4)
    return SimpleNamespace(model_config=model_config, preferred_sampling_params=None)


MANAGER = manager()


def validate(tokenizer_manager: Any, req: Any, **asked: Any) -> None:
    """The check of a request that asked for these sampling parameters."""
    admission.validate_tokenized(tokenizer_manager, SimpleNamespace(sampling_params=asked), req)


def refused(req: Any) -> str | None:
    """What both checks say, which must be the same."""
    message = admission.problem(req)
    said = None
    try:
        validate(MANAGER, req)
    except OptionError as error:
        said = str(error)
    assert said == message
    return message


def test_good_requests_pass() -> None:
    for options in (None, {}, DIFFUSION, {"decoding_mode": "ar"}, {"block_size": 4, "draft_lora": False}):
        assert refused(request(options, sampling_seed=1)) is None
        assert refused(request(options, temperature=0.0, max_new_tokens=5, stop=["x"], n=2)) is None


@pytest.mark.parametrize(
    "params",
    [
        {"top_k": 2**31},
        {"top_k": 10**30},
        {"max_new_tokens": 2**31},
        {"min_new_tokens": 10**30},
        {"sampling_seed": 2**63},
        {"sampling_seed": -(10**30)},
        {"temperature": 10**400},
        {"temperature": math.nan},
        {"presence_penalty": 1e39},
    ],
    ids=str,
)
def test_numbers_that_no_tensor_holds(params: dict[str, Any]) -> None:
    """SGLang's scheduler would end with an overflow."""
    [name] = params
    message = refused(request(**params))
    assert message is not None
    assert message.startswith(f"field '{name}': got ")
    assert "expected a number from -" in message


def test_a_prompt_without_tokens() -> None:
    req = request()
    req.input_ids = []
    with pytest.raises(OptionError, match="field 'prompt': got no tokens, expected at least one"):
        validate(MANAGER, req)


def test_the_largest_numbers_pass() -> None:
    assert refused(request(top_k=2**31 - 1, max_new_tokens=2**31 - 1, sampling_seed=2**63 - 1)) is None


@pytest.mark.parametrize("mode", DecodingMode)
def test_choices_that_would_all_be_equal(mode: DecodingMode) -> None:
    options = {"decoding_mode": mode.value}
    message = refused(request(options, n=2, sampling_seed=0))
    assert message is not None
    assert message.startswith("field 'n': got 2 with a seed, expected 1")
    for params in ({"n": 2}, {"n": 1, "sampling_seed": 0}, {"n": 2, "sampling_seed": 0, "temperature": 0.0}):
        assert refused(request(options, **params)) is None


@pytest.mark.parametrize(("options", "named"), OPTIONS[:-1], ids=str)
def test_bad_options_are_named(options: dict[str, Any], named: list[str]) -> None:
    message = refused(request(options))
    assert message is not None
    assert all(part in message for part in named)


@pytest.mark.parametrize(
    ("params", "neutral"),
    REFUSED_IN_DIFFUSION,
    ids=[next(iter(params)) for params, _ in REFUSED_IN_DIFFUSION],
)
def test_what_diffusion_cannot_honour(params: dict[str, Any], neutral: object) -> None:
    [(name, value)] = params.items()
    with pytest.raises(OptionError) as expected:
        refuse_in_diffusion({name: (value, neutral)}, SETTINGS.options(DIFFUSION), constraints=CONSTRAINTS)
    assert refused(request(DIFFUSION, **params)) == str(expected.value)
    for mode in ("ar", "self_speculation"):
        assert refused(request({"decoding_mode": mode}, **params)) is None


def test_a_thinking_budget_needs_another_mode() -> None:
    message = refused(request({**DIFFUSION, "thinking_budget": 5}))
    assert message is not None
    assert message.startswith("field 'thinking_budget': got 5, expected None with decoding_mode 'diffusion'")
    assert refused(request({"thinking_budget": 5})) is None


def test_a_thinking_budget_needs_a_server_that_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sglang.srt.runtime_context as context

    monkeypatch.setattr(context, "get_serving", lambda: SimpleNamespace(enable_strict_thinking=False))
    for mode in ("ar", "self_speculation"):
        message = refused(request({"decoding_mode": mode, "thinking_budget": 5}))
        assert message is not None
        assert message.startswith("field 'thinking_budget': got 5, expected none: start the server with")
        assert refused(request({"decoding_mode": mode})) is None


@pytest.mark.parametrize("top_k", [-1, None])
def test_top_k_that_means_all_tokens(top_k: int | None) -> None:
    assert refused(request(DIFFUSION, top_k=top_k)) is None


def test_greedy_is_top_k_1_for_sglang() -> None:
    assert refused(request(DIFFUSION, temperature=0.0)) is None
    assert refused(request(DIFFUSION, temperature=0.0, top_k=1)) is None


@pytest.mark.parametrize("params", [{"top_p": 0.9}, {"min_p": 0.1}, {"top_k": 50}], ids=str)
def test_what_has_no_effect_on_a_greedy_answer_passes(params: dict[str, Any]) -> None:
    assert refused(request(DIFFUSION, temperature=0.0, **params)) is None


def test_what_the_server_prefers_is_dropped_in_diffusion() -> None:
    """And refused where the client asks for it; in other modes it stays."""
    preferring = SimpleNamespace(
        **{**vars(MANAGER), "preferred_sampling_params": {"top_p": 0.9, "top_k": 20}}
    )
    for options, kept in ((DIFFUSION, False), ({"decoding_mode": "ar"}, True)):
        req = request(options, top_p=0.9, top_k=20)
        validate(preferring, req)
        params = req.sampling_params
        assert (params.top_p, params.top_k) == ((0.9, 20) if kept else (1.0, TOP_K_ALL))
    greedy = request(DIFFUSION, temperature=0.0, top_p=0.9)
    validate(preferring, greedy)
    assert greedy.sampling_params.top_k == 1
    with pytest.raises(OptionError, match=r"'top_p': got 0\.9"):
        validate(preferring, request(DIFFUSION, top_p=0.9, top_k=20), top_p=0.9)


def chat(**fields: Any) -> Any:
    return ChatCompletionRequest(model="m", messages=[{"role": "user", "content": "x"}], **fields)


def test_a_checkpoint_s_defaults_are_dropped_in_diffusion() -> None:
    defaults = {"top_p": 0.9, "top_k": 20, "min_p": 0.1, "repetition_penalty": 1.1}
    neutral = {name: admission.NEUTRAL_HERE[name] for name in defaults}
    for fields, expected in (
        ({"custom_params": DIFFUSION}, neutral),
        ({"custom_params": DIFFUSION, "top_p": 0.5}, {**neutral, "top_p": 0.5}),
        ({"custom_params": {"decoding_mode": "ar"}}, defaults),
    ):
        changes = admission.changes_in_diffusion(chat(**fields), False)
        parameters = {**chat(**fields).to_sampling_params([], defaults), **(changes or {})}
        assert {name: parameters[name] for name in defaults} == expected


def test_other_servers_requests_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "_settings", None)
    strict = {"type": "function", "function": {"name": "f", "parameters": {}, "strict": True}}
    for constrained in (True, False):
        asked = chat(custom_params=DIFFUSION, tools=[strict])
        assert admission.changes_in_diffusion(asked, constrained) is None


def test_one_call_that_only_a_grammar_would_keep_to() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    one = chat(custom_params=DIFFUSION, tools=[tool], parallel_tool_calls=False)
    with pytest.raises(OptionError, match="'parallel_tool_calls': got False, expected True"):
        admission.changes_in_diffusion(one, True)
    assert admission.changes_in_diffusion(one, False) is not None
    assert admission.changes_in_diffusion(chat(tools=[tool], parallel_tool_calls=False), True) is None


@pytest.mark.parametrize("rows", [[[1.0] * 3], [[1.0] * 4, []], [[1.0] * 4, 1.0]], ids=str)
def test_embeddings_of_another_size(rows: Any) -> None:
    req = request()
    req.input_embeds = [[1.0] * 4] * 2
    validate(MANAGER, req)
    req.input_embeds = rows
    with pytest.raises(
        OptionError, match=r"field 'input_embeds': got a row of .*, expected rows of 4 numbers"
    ):
        validate(MANAGER, req)


@pytest.mark.parametrize("name", admission._REFUSED)
@pytest.mark.parametrize("mode", DecodingMode)
def test_what_no_mode_can_honour(name: str, mode: DecodingMode) -> None:
    options = {"decoding_mode": mode.value}
    assert refused(request(options, **{name: "a value"})) == (
        f"field '{name}': got a value, expected none: this model's server cannot honour it"
    )
    for nothing in (None, False):
        assert refused(request(options, **{name: nothing})) is None


def test_stop_tokens_that_would_overflow_the_table() -> None:
    ids = list(range(10, 10 + MAX_STOP_IDS + 1))
    message = f"field 'stop_token_ids': got {len(ids)} entries, expected at most {MAX_STOP_IDS}"
    assert admission.problem(request(stop_token_ids=ids[2:])) is None
    assert admission.problem(request(stop_token_ids=ids[1:])) == message  # and the end of the text
    assert admission.problem(request(stop_token_ids=ids, ignore_eos=True)) is None
    with pytest.raises(OptionError) as refusal:
        validate(MANAGER, request(stop_token_ids=ids))
    assert str(refusal.value) == message


def test_the_servers_default_mode_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    server.serve(ServerSettings.read(32, DIFFUSION))
    monkeypatch.setenv(VARIABLE, '{"decoding_mode": "diffusion"}')
    message = refused(request(top_p=0.5))
    assert message is not None
    assert message.startswith("field 'top_p': got 0.5, expected 1.0")
    assert refused(request({"decoding_mode": "ar"}, top_p=0.5)) is None


@pytest.mark.parametrize("name", ["input_ids", "token_ids_logprob"])
@pytest.mark.parametrize("outside", [-1, 100, 1_000_000])
def test_ids_past_the_vocabulary(name: str, outside: int) -> None:
    req = request()
    for good in (None, [3], [0, 99]):
        setattr(req, name, good)
        validate(MANAGER, req)
    setattr(req, name, [5, outside, 7])
    with pytest.raises(OptionError) as refusal:
        validate(MANAGER, req)
    assert str(refusal.value) == f"field '{name}': got the id {outside}, expected ids in 0 to 99"


@pytest.mark.parametrize("outside", [-1, 100, 2**63])
def test_stop_tokens_past_the_vocabulary(outside: int) -> None:
    validate(MANAGER, request(stop_token_ids=[0, 99]))
    with pytest.raises(OptionError) as refusal:
        validate(MANAGER, request(stop_token_ids=[5, outside, 7]))
    assert str(refusal.value) == f"field 'stop_token_ids': got the id {outside}, expected ids in 0 to 99"


def test_more_logprobs_than_there_are_tokens() -> None:
    req = request()
    for req.top_logprobs_num in (None, 0, 100):
        validate(MANAGER, req)
    req.top_logprobs_num = 101
    with pytest.raises(OptionError, match="'top_logprobs_num': got 101, expected at most 100, the size"):
        validate(MANAGER, req)


@pytest.mark.parametrize("options", [None, DIFFUSION, {"decoding_mode": "ar"}])
def test_mode(options: Any) -> None:
    expected = SETTINGS.options(options).decoding_mode
    assert admission.mode_of(request(options)) is expected


def test_options_are_read_once() -> None:
    req = request(DIFFUSION)
    assert admission.mode_of(req) is DecodingMode.DIFFUSION
    req.sampling_params = None
    assert admission.mode_of(req) is DecodingMode.DIFFUSION


class TestOtherAlgorithm:
    """Our model where another speculative algorithm runs, or none: there is only AR."""

    @pytest.fixture(autouse=True, params=[None, "EAGLE"])
    def _algorithm(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        import sglang.srt.runtime_context as context

        monkeypatch.setattr(context, "get_spec", lambda: SimpleNamespace(speculative_algorithm=request.param))

    @pytest.mark.parametrize("options", [None, {}, {"decoding_mode": "ar"}])
    def test_ar_and_the_defaults(self, options: Any) -> None:
        validate(MANAGER, request(options, return_hidden_states=True, n=2, sampling_seed=1))

    @pytest.mark.parametrize("mode", [one for one in DecodingMode if one is not DecodingMode.AR])
    def test_modes_that_are_not_there(self, mode: DecodingMode) -> None:
        with pytest.raises(OptionError) as refusal:
            validate(MANAGER, request({"decoding_mode": mode.value, "block_size": 4}))
        assert str(refusal.value) == (
            f"field 'decoding_mode': got '{mode.value}', expected 'ar': "
            "this server was started with another speculative algorithm"
        )

    def test_bad_options_are_still_named(self) -> None:
        with pytest.raises(OptionError, match="'threshold'"):
            validate(MANAGER, request(NOT_OURS))


class TestOtherServers:
    """Their requests may hold anything."""

    def test_scheduler(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(server, "_served", None)
        assert admission.problem(request(NOT_OURS, return_hidden_states=True)) is None
        assert admission.mode_of(request(NOT_OURS)) is None

    @pytest.mark.parametrize("architectures", [None, [], ["LlamaForCausalLM"]])
    @pytest.mark.parametrize("algorithm", [None, "EAGLE", ALGORITHM])
    def test_tokenizer_manager(
        self, algorithm: str | None, architectures: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import sglang.srt.runtime_context as context

        monkeypatch.setattr(context, "get_spec", lambda: SimpleNamespace(speculative_algorithm=algorithm))
        foreign = request(NOT_OURS, return_hidden_states=True, stop_token_ids=[10**6])
        validate(manager(architectures), foreign)

    def test_requests_that_sample_nothing(self) -> None:
        validate(MANAGER, SimpleNamespace(sampling_params=None))
        validate(MANAGER, SimpleNamespace())
