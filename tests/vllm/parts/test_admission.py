"""The admission check on vLLM's own sampling parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.sampling_params import SamplingParams, StructuredOutputsParams

from nemotron_diffusion_plugin.options import DecodingMode, OptionError
from nemotron_diffusion_plugin.settings import ServerSettings
from nemotron_diffusion_plugin.vllm.front import admission
from nemotron_diffusion_plugin.vllm.front.admission import Admission
from nemotron_diffusion_plugin.vllm.settings import ENGINE_KEYS

DIFFUSION = {"decoding_mode": "diffusion"}

pytestmark = pytest.mark.engine


@pytest.fixture(autouse=True)
def _server() -> Iterator[None]:
    before = admission._settings, admission._only_ar, admission._processors, admission._defaults
    admission.configure(ServerSettings.read(32, None), only_ar=False)
    yield
    admission._settings, admission._only_ar, admission._processors, admission._defaults = before


def test_good_requests_pass() -> None:
    for options in (None, {}, DIFFUSION, {"decoding_mode": "ar"}, {"block_size": 4, "draft_lora": False}):
        Admission.validate_params(SamplingParams(temperature=0.7, seed=1, extra_args=options))


def test_bad_options_are_named() -> None:
    with pytest.raises(OptionError, match="'threshold': got 7"):
        Admission.validate_params(SamplingParams(extra_args={"threshold": 7}))


@pytest.mark.parametrize(
    "parameters",
    [
        {"top_p": 0.5},
        {"top_k": 4},
        {"min_p": 0.1},
        {"presence_penalty": 0.1},
        {"frequency_penalty": -0.1},
        {"repetition_penalty": 1.1},
        {"logit_bias": {5: 1.0}},
        {"allowed_token_ids": [7]},
        {"bad_words": ["x"]},
        {"structured_outputs": StructuredOutputsParams(json="{}")},
    ],
    ids=lambda parameters: next(iter(parameters)),
)
def test_what_diffusion_cannot_honour(parameters: dict[str, Any]) -> None:
    [name] = parameters
    with pytest.raises(OptionError, match=f"'{name}'.*use decoding_mode 'auto', 'ar' or 'self_speculation'"):
        Admission.validate_params(SamplingParams(temperature=0.7, extra_args=DIFFUSION, **parameters))
    for mode in ("ar", "self_speculation"):
        Admission.validate_params(
            SamplingParams(temperature=0.7, extra_args={"decoding_mode": mode}, **parameters)
        )


def test_top_k_that_means_all_tokens() -> None:
    for value in (0, -1):
        Admission.validate_params(SamplingParams(temperature=0.7, top_k=value, extra_args=DIFFUSION))


def test_the_engine_s_own_keys_pass() -> None:
    for mode in DecodingMode:
        own = dict.fromkeys(ENGINE_KEYS, "full")
        Admission.validate_params(SamplingParams(extra_args={**own, "decoding_mode": mode.value}))


def test_every_key_that_vllm_reads_is_known() -> None:
    """`extra_args.get("...")` anywhere in the engine, but for models that are not ours."""
    import vllm

    folder = Path(vllm.__file__).parent
    read = re.compile(r'(?:extra_args|vllm_xargs)\.get\(\s*"(\w+)"')
    named = {
        name
        for path in folder.rglob("*.py")
        if not {"model_executor", "models"} & set(path.relative_to(folder).parts[:1])
        for name in read.findall(path.read_text())
    }
    assert named == ENGINE_KEYS


def test_keys_of_a_users_processor_pass_where_there_is_one() -> None:
    params = SamplingParams(extra_args={"banned": 5})
    with pytest.raises(OptionError, match="'banned': unknown option"):
        Admission.validate_params(params)
    admission.configure(ServerSettings.read(32, None), only_ar=False, processors=["a.b:C"])
    Admission.validate_params(params)
    for slip in ("treshold", "decodingmode", "block-size"):
        with pytest.raises(OptionError, match="unknown option"):
            Admission.validate_params(SamplingParams(extra_args={slip: 5}))
    with pytest.raises(OptionError, match=r"'diffusion', expected 'auto'.*processors \(a.b:C\)"):
        Admission.validate_params(SamplingParams(extra_args=DIFFUSION))


def test_defaults_of_the_server_are_dropped_in_diffusion() -> None:
    """Where nobody says what the client asked for, a value of the server's is not one of the client's."""
    defaults = {"top_p": 0.9, "top_k": 20, "repetition_penalty": 1.1, "temperature": 0.7, "max_tokens": 5}
    admission.configure(ServerSettings.read(32, None), only_ar=False, defaults=defaults)
    params = SamplingParams(**defaults, extra_args=DIFFUSION)
    Admission.validate_params(params)
    assert (params.top_p, params.top_k, params.repetition_penalty) == (1.0, 0, 1.0)
    assert (params.temperature, params.max_tokens) == (0.7, 5)
    other = SamplingParams(**defaults, extra_args={"decoding_mode": "ar"})
    Admission.validate_params(other)
    assert other.top_p == 0.9
    with pytest.raises(OptionError, match=r"'top_p': got 0\.8"):
        Admission.validate_params(SamplingParams(**{**defaults, "top_p": 0.8}, extra_args=DIFFUSION))


def test_a_client_may_not_ask_for_the_default_either() -> None:
    admission.configure(ServerSettings.read(32, None), only_ar=False, defaults={"top_p": 0.9})
    for fields in ({}, {"top_p": None}):
        request = completion(**fields)
        params = request.to_sampling_params(5, {"top_p": 0.9})
        admission.validate_openai_request(request, params)
        assert params.top_p == 1.0
    request = completion(top_p=0.9)
    with pytest.raises(OptionError, match=r"'top_p': got 0\.9"):
        admission.validate_openai_request(request, request.to_sampling_params(5, {}))


def completion(**fields: Any) -> CompletionRequest:
    return CompletionRequest(model="m", prompt="x", temperature=0.7, vllm_xargs=DIFFUSION, **fields)


def test_beside_another_speculator_only_ar_exists() -> None:
    admission.configure(ServerSettings.read(32, None), only_ar=True)
    for options in (None, {"decoding_mode": "ar"}):
        Admission.validate_params(SamplingParams(extra_args=options))
    with pytest.raises(OptionError, match="'decoding_mode': got 'diffusion', expected 'ar'"):
        Admission.validate_params(SamplingParams(extra_args=DIFFUSION))


def test_lists_that_would_overflow_the_worker() -> None:
    with pytest.raises(OptionError, match=r"'stop_token_ids.*got 5000 entries, expected at most"):
        Admission.validate_params(SamplingParams(min_tokens=1, stop_token_ids=list(range(5000))))
    with pytest.raises(OptionError, match=r"'logit_bias.*got 2000 entries, expected at most"):
        Admission.validate_params(SamplingParams(logit_bias=dict.fromkeys(range(2000), 1.0)))


@pytest.mark.parametrize("value", [2**64, -(10**30), "\ud800"], ids=ascii)
def test_a_schema_that_cannot_be_sent_to_the_engine(value: Any) -> None:
    for schema in ({"const": value}, {"properties": {"a": {"enum": [1, value]}}}):
        with pytest.raises(OptionError, match=r"'structured_outputs.json': got an integer of more"):
            Admission.validate_params(SamplingParams(structured_outputs=StructuredOutputsParams(json=schema)))
    fits = StructuredOutputsParams(json={"const": 2**63})
    Admission.validate_params(SamplingParams(structured_outputs=fits))


def test_beams_are_those_of_ar() -> None:
    for options in (None, {"decoding_mode": "ar"}, {"decoding_mode": "self_speculation"}):
        admission.validate_beam_search(options)
    with pytest.raises(OptionError, match=r"'use_beam_search': got True, expected False with .*'diffusion'"):
        admission.validate_beam_search(DIFFUSION)
    with pytest.raises(OptionError, match="'threshold': got 7"):
        admission.validate_beam_search({"threshold": 7})


def test_a_number_that_cannot_be_sent_to_the_engine() -> None:
    """In any field: vLLM answers it with 500."""
    params = SamplingParams()
    params.stream_interval = 10**24
    with pytest.raises(OptionError, match="'stream_interval': got an integer of more than 64 bits"):
        Admission.validate_params(params)
