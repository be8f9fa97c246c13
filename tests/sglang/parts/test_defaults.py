"""What a server of our architecture is started with, and that no other server is touched."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("sglang")

import sglang.srt.arg_groups.model_override_base as base
import sglang.srt.arg_groups.overrides as overrides
import sglang.srt.runtime_context as context

import nemotron_diffusion_plugin.sglang.front.defaults as module
from nemotron_diffusion_plugin.model.spec import TEXT
from nemotron_diffusion_plugin.options import OptionError
from nemotron_diffusion_plugin.sglang.front.defaults import (
    choose_algorithm,
    refuse_unsupported,
)
from nemotron_diffusion_plugin.sglang.identity import ALGORITHM
from nemotron_diffusion_plugin.sglang.settings import VARIABLE
from nemotron_diffusion_plugin.sglang.worker.block_worker import _refuse_small_pool

pytestmark = pytest.mark.engine

CHOSEN = {
    "speculative_algorithm": ALGORITHM,
    "speculative_num_draft_tokens": 16,
    "speculative_num_steps": 1,
    "speculative_eagle_topk": 1,
    "enable_mixed_chunk": False,
}


@pytest.fixture(autouse=True)
def _server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setattr(base, "resolving_view", lambda arguments: arguments)
    monkeypatch.setattr(base, "model_config_of", lambda arguments: arguments.model_config)
    monkeypatch.setattr(context, "get_platform", lambda: SimpleNamespace(is_sm100=False))
    monkeypatch.setattr(
        overrides, "declare_resolution", lambda arguments, source, **values: arguments.chosen.update(values)
    )


ROPE = {"rope_type": "yarn", "original_max_position_embeddings": 64, "factor": 4.0}


def arguments(
    algorithm: str | None = None,
    drafts: int | None = None,
    architectures: Any = (TEXT.architecture,),
    context_len: int = 256,
    load_format: str = "dummy",
    sampling: dict[str, Any] | None = None,
    preferred: Any = None,
    is_embedding: bool = False,
) -> Any:
    hf_config = SimpleNamespace(architectures=architectures, block_size=16, rope_parameters=ROPE)
    return SimpleNamespace(
        is_embedding=is_embedding,
        preferred_sampling_params=preferred,
        load_format=load_format,
        speculative_algorithm=algorithm,
        speculative_num_draft_tokens=drafts,
        model_config=SimpleNamespace(
            hf_config=hf_config, context_len=context_len, get_default_sampling_params=lambda: sampling or {}
        ),
        device="cpu",
        attention_backend=None,
        prefill_attention_backend=None,
        decode_attention_backend=None,
        chosen={},
        previous=0,
    )


def chosen(given: Any) -> dict[str, Any]:
    def previous(server_args: Any) -> None:
        assert not server_args.chosen
        server_args.previous += 1

    try:
        choose_algorithm(given, previous)
    finally:
        assert given.previous == 1, "SGLang's own step runs once, and first"
    result: dict[str, Any] = given.chosen
    return result


def test_no_fallback_on_pickle_files() -> None:
    assert chosen(arguments(load_format="auto"))["load_format"] == "safetensors"
    assert chosen(arguments("EAGLE", load_format="auto")) == {"load_format": "safetensors"}
    assert chosen(arguments(architectures=["LlamaForCausalLM"], load_format="auto")) == {}


@pytest.mark.parametrize(("algorithm", "drafts"), [(None, None), (ALGORITHM, None), (None, 16)])
def test_our_architecture(algorithm: str | None, drafts: int | None) -> None:
    assert chosen(arguments(algorithm, drafts)) == CHOSEN


@pytest.mark.parametrize("preferred", [{"top_k": 5}, '{"top_k": 5}'], ids=type)
def test_the_log_says_which_defaults_diffusion_does_without(
    preferred: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[Any, ...]] = []
    monkeypatch.setattr(module.logger, "info", lambda *words: said.append(words))
    chosen(arguments(sampling={"top_p": 0.9, "temperature": 0.7}, preferred=preferred))
    assert said[0][1] == {"top_p": 0.9, "top_k": 5}
    said.clear()
    chosen(arguments())
    assert len(said) == 1, "the line about the default mode"


def test_a_server_of_embeddings_is_left_alone() -> None:
    assert chosen(arguments(is_embedding=True)) == {}


def test_acceptance_is_made_up_only_without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, '{"synthetic_acceptance_length": 3}')
    with pytest.raises(OptionError, match="expected --load-format dummy"):
        chosen(arguments(load_format="auto"))
    assert chosen(arguments(load_format="dummy")) == CHOSEN


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, {"attention_backend": "triton"}), ("attention_backend", {}), ("decode_attention_backend", {})],
)
def test_a_default_backend_that_cannot_draft(
    given: str | None, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "get_platform", lambda: SimpleNamespace(is_sm100=True))
    server = arguments()
    if given is not None:
        setattr(server, given, "flashinfer")
    assert chosen(server) == {**CHOSEN, **expected}


@pytest.mark.parametrize("architectures", [None, [], ["LlamaForCausalLM"]])
def test_other_models(architectures: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, '{"threshold": 7}')
    assert chosen(arguments(architectures=architectures, drafts=5, context_len=10**6)) == {}


def test_an_algorithm_that_the_user_named() -> None:
    assert chosen(arguments("EAGLE", 5)) == {}


@pytest.mark.parametrize("algorithm", [None, ALGORITHM, "EAGLE"])
def test_a_context_past_the_rotations(algorithm: str | None) -> None:
    given = arguments(algorithm, context_len=257)
    with pytest.raises(ValueError, match="context_length: got 257, expected at most 256, "):
        chosen(given)
    assert given.chosen == {}


def test_another_number_of_drafts() -> None:
    with pytest.raises(
        ValueError, match="speculative_num_draft_tokens: got 8, expected 16, the model's block"
    ):
        chosen(arguments(drafts=8))


def test_bad_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, '{"threshold": 7}')
    with pytest.raises(OptionError, match="'threshold': got 7"):
        chosen(arguments())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pp_size", 2),
        ("enable_dp_attention", True),
        ("tokenizer_worker_num", 2),
        ("enable_lora", True),
        ("disaggregation_mode", "prefill"),
        ("grammar_backend", "outlines"),
        ("enable_pdmux", True),
        ("enable_two_batch_overlap", True),
    ],
)
def test_set_ups_in_which_drafts_would_be_wrong(name: str, value: object) -> None:
    switches = ("enable_dp_attention", "enable_pdmux", "enable_two_batch_overlap")
    good = {
        "pp_size": 1,
        "tokenizer_worker_num": 1,
        "enable_lora": None,
        "disaggregation_mode": "null",
        **dict.fromkeys(switches, False),
    }
    refuse_unsupported(SimpleNamespace(**good))
    with pytest.raises(ValueError, match=f"^{name}: got {value!r}, expected "):
        refuse_unsupported(SimpleNamespace(**{**good, name: value}))


def test_a_pool_holds_a_page_and_two_blocks() -> None:
    _refuse_small_pool(65, 32, 1)
    _refuse_small_pool(96, 32, 32)
    for tokens, page in ((64, 1), (95, 32), (1, 1)):
        with pytest.raises(
            ValueError, match=f"max_total_tokens: got {tokens}, expected at least {64 + page}"
        ):
            _refuse_small_pool(tokens, 32, page)
