import json

import pytest

from nemotron_diffusion_plugin.options import DecodingOptions
from nemotron_diffusion_plugin.tools.bench.engines import acceptance_histogram, find_engine
from nemotron_diffusion_plugin.tools.bench.methods import (
    DEFAULT_METHODS,
    ServerKind,
    find_method,
    find_methods,
)
from nemotron_diffusion_plugin.tools.bench.setup import Setup


def setup(**changes):
    given = {"engine": "vllm", "model": "folder", "methods": ("ar",), "categories": ("code",)}
    return Setup(**{**given, **changes})


def test_every_mode_shares_one_server():
    methods = find_methods([*DEFAULT_METHODS.split(","), "diffusion@0.5", "ar"])
    kinds = {method.name: method.kind for method in methods}
    assert len(methods) == 7
    assert {name for name, kind in kinds.items() if kind is not ServerKind.MODES} == {"ngram"}
    for method in methods:
        DecodingOptions.parse(method.options, DecodingOptions(), 32)


def test_what_a_method_says():
    assert find_method("diffusion@0.95").options == {"decoding_mode": "diffusion", "threshold": 0.95}
    assert find_method("self_speculation_without_lora").options["draft_lora"] is False
    assert find_method("eagle3").options == {}
    drafting = {
        name for name in ("ar", "eagle3", "self_speculation", "diffusion@1") if find_method(name).drafts
    }
    assert drafting == {"eagle3", "self_speculation"}
    assert not find_method("diffusion@1").is_lossless
    assert find_method("ngram").is_lossless


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("eagle", "unknown method 'eagle', expected one of ar, eagle3, ngram"),
        ("diffusion@2", "got the threshold '2', expected a number in"),
        ("diffusion@x", "got the threshold 'x'"),
        ("", "none given"),
    ],
)
def test_unknown_methods(name, message):
    with pytest.raises(ValueError, match=message):
        find_methods([name])


def test_a_vllm_server_for_each_kind():
    engine = find_engine("vllm")
    plain = engine.command(ServerKind.MODES, setup(server_options="--dtype 'a b'"), 81)
    assert plain[:5] == ["vllm", "serve", "folder", "--port", "81"]
    assert plain[-2:] == ["--dtype", "a b"]
    assert "--speculative-config" not in plain
    assert "--no-enable-prefix-caching" in plain
    for kind, expected in (
        (ServerKind.NGRAM, {"method": "ngram", "num_speculative_tokens": 4}),
        (ServerKind.EAGLE3, {"method": "eagle3", "model": "head", "num_speculative_tokens": 3}),
    ):
        command = engine.command(kind, setup(eagle3="head", eagle3_drafts=3, ngram_drafts=4), 81)
        config = json.loads(command[command.index("--speculative-config") + 1])
        assert expected.items() <= config.items()


def test_a_sglang_server_for_each_kind():
    engine = find_engine("sglang")
    given = setup(engine="sglang", launcher="python x.py", eagle3="head", eagle3_drafts=3, ngram_drafts=4)
    modes = engine.command(ServerKind.MODES, given, 81)
    assert modes[:5] == ["python", "x.py", "folder", "--port", "81"]
    assert "--enable-metrics" in modes
    eagle3 = engine.command(ServerKind.EAGLE3, given, 81)
    for option, value in (
        ("--speculative-algorithm", "EAGLE3"),
        ("--speculative-draft-model-path", "head"),
        ("--speculative-num-steps", "3"),
        ("--speculative-num-draft-tokens", "4"),
    ):
        assert eagle3[eagle3.index(option) + 1] == value
    ngram = engine.command(ServerKind.NGRAM, given, 81)
    assert ngram[ngram.index("--speculative-num-draft-tokens") + 1] == "5"


def test_requests_are_greedy_and_carry_the_options():
    messages = [{"role": "user", "content": "q"}]
    body = find_engine("vllm").body(find_method("diffusion@0.7"), "m", messages, setup(max_tokens=50))
    assert body == {
        "model": "m",
        "messages": messages,
        "max_tokens": 50,
        "temperature": 0,
        "vllm_xargs": {"decoding_mode": "diffusion", "threshold": 0.7},
    }
    other = find_engine("sglang").body(find_method("eagle3"), "m", messages, setup(ignore_eos=True))
    assert "custom_params" not in other
    assert other["return_spec_tokens_details"] is True
    assert other["ignore_eos"] is True


def test_servers_without_weights_make_acceptance_up():
    given = {"eagle3": "head", "synthetic": {"modes": 6.82, "eagle3": 2.75}}
    vllm, sglang = find_engine("vllm"), find_engine("sglang")
    for engine in (vllm, sglang):
        for kind in (ServerKind.MODES, ServerKind.EAGLE3):
            command = engine.command(kind, setup(**given), 81)
            assert command[command.index("--load-format") + 1] == "dummy"
    settings = '{"synthetic_acceptance_length": 6.82}'
    assert settings in vllm.command(ServerKind.MODES, setup(**given), 81)
    assert settings in sglang.command(ServerKind.MODES, setup(**given), 81)
    command = vllm.command(ServerKind.EAGLE3, setup(**given), 81)
    config = json.loads(command[command.index("--speculative-config") + 1])
    assert config["rejection_sample_method"] == "synthetic"
    assert config["synthetic_acceptance_length"] == 2.75
    assert sglang.variables(ServerKind.EAGLE3, setup(**given))["SGLANG_SIMULATE_ACC_LEN"] == "2.75"
    assert sglang.variables(ServerKind.MODES, setup(**given)) == {}
    assert "--load-format" not in vllm.command(ServerKind.MODES, setup(), 81)


def test_acceptance_as_each_engine_reports_it():
    vllm = {"metrics": {"speculative_decoding": {"acceptance_histogram": [1, 0, 2]}}}
    sglang = {"sglext": {"spec_tokens_details": {"spec_correct_drafts_histogram": [3, 1]}}}
    assert acceptance_histogram(vllm) == [1, 0, 2]
    assert acceptance_histogram(sglang) == [3, 1]
    assert acceptance_histogram({"metrics": None}) == []


def test_unknown_engine():
    with pytest.raises(ValueError, match="--engine: got 'trt', expected one of vllm, sglang"):
        find_engine("trt")


@pytest.mark.parametrize("field", ["repeats", "requests", "max_tokens", "ngram_drafts"])
def test_numbers_out_of_range(field):
    with pytest.raises(ValueError, match=f"--{field.replace('_', '-')}: got 0, expected 1 to"):
        setup(**{field: 0})
    with pytest.raises(ValueError, match=f"--{field.replace('_', '-')}: got {10**12}, expected 1 to"):
        setup(**{field: 10**12})
