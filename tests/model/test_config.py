import copy
import json
import pickle
import subprocess
import sys

import pytest
from transformers import AutoConfig

from nemotron_diffusion_plugin.model.config import NemotronLabsDiffusionConfig
from nemotron_diffusion_plugin.model.spec import register
from nemotron_diffusion_plugin.tools.training.random_model import SMALL_CONFIG, write_config

PUBLISHED_8B = {
    **SMALL_CONFIG,
    "vocab_size": 131072,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 34,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 262144,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 1000000.0,
        "factor": 16.0,
        "original_max_position_embeddings": 16384,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    },
}


def fields(**changes):
    return copy.deepcopy({**PUBLISHED_8B, **changes})


def with_rope(**changes):
    return fields(rope_parameters={**PUBLISHED_8B["rope_parameters"], **changes})


def test_published_fields_are_kept():
    config = NemotronLabsDiffusionConfig(**fields())
    for name, value in PUBLISHED_8B.items():
        assert getattr(config, name) == value, name
    assert config.rope_theta == 1000000.0
    assert config.llama_4_scaling == {"original_max_position_embeddings": 16384, "beta": 0.1}


def test_loads_without_remote_code(tmp_path):
    register()
    register()
    write_config(tmp_path, fields())
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is NemotronLabsDiffusionConfig
    assert "AutoConfig" in config.auto_map
    assert config.architectures == ["NemotronLabsDiffusionModel"]


def test_survives_save_load_and_pickle(tmp_path):
    register()
    config = NemotronLabsDiffusionConfig(**fields(torch_dtype="bfloat16"))
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == {**config.to_dict(), "_name_or_path": str(tmp_path)}
    assert pickle.loads(pickle.dumps(config)).to_dict() == config.to_dict()
    assert copy.deepcopy(config).llama_4_scaling == config.llama_4_scaling


def test_rope_scaling_spelling_means_the_same(tmp_path):
    raw = fields()
    rope = raw.pop("rope_parameters")
    theta = rope.pop("rope_theta")
    rope["type"] = rope.pop("rope_type")
    legacy = NemotronLabsDiffusionConfig(**raw, rope_scaling=rope, rope_theta=theta)
    assert legacy.rope_parameters == NemotronLabsDiffusionConfig(**fields()).rope_parameters
    legacy.save_pretrained(tmp_path)
    assert "rope_scaling" not in json.loads((tmp_path / "config.json").read_text())


def test_both_spellings_side_by_side_as_the_published_class_writes_them():
    rope = PUBLISHED_8B["rope_parameters"]
    config = NemotronLabsDiffusionConfig(**fields(), rope_scaling=dict(rope), rope_theta=1000000.0)
    assert config.rope_parameters == rope


def test_mscale_defaults_to_one():
    rope = {
        name: value
        for name, value in PUBLISHED_8B["rope_parameters"].items()
        if name not in ("mscale", "mscale_all_dim", "beta_fast", "beta_slow")
    }
    config = NemotronLabsDiffusionConfig(**fields(rope_parameters=rope))
    assert config.rope_parameters["mscale"] == config.rope_parameters["mscale_all_dim"] == 1.0
    assert (config.rope_parameters["beta_fast"], config.rope_parameters["beta_slow"]) == (32.0, 1.0)


def test_factor_below_one_is_accepted():
    config = NemotronLabsDiffusionConfig(**{**with_rope(factor=0.25), "max_position_embeddings": 4096})
    assert config.rope_parameters["factor"] == 0.25


@pytest.mark.parametrize(("factor", "longest"), [(16.0, 262144), (20.0, 262144), (8.0, 131072), (0.25, 4096)])
def test_the_context_is_what_the_rotations_cover(factor, longest, caplog):
    config = NemotronLabsDiffusionConfig(**with_rope(factor=factor))
    assert config.max_position_embeddings == longest
    assert ("the longest context is" in caplog.text) == (longest < 262144)
    plain = NemotronLabsDiffusionConfig(
        **fields(rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    )
    assert plain.max_position_embeddings == 262144


def test_no_query_scale_without_beta():
    rope = dict(PUBLISHED_8B["rope_parameters"])
    del rope["llama_4_scaling_beta"]
    assert NemotronLabsDiffusionConfig(**fields(rope_parameters=rope)).llama_4_scaling is None


def test_rope_theta_can_be_assigned_as_engines_do():
    config = NemotronLabsDiffusionConfig(**fields())
    config.rope_theta = 5.0
    assert config.rope_parameters["rope_theta"] == config.rope_theta == 5.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": None}, "field 'hidden_size': missing, expected an integer >= 1"),
        ({"vocab_size": 0}, "field 'vocab_size': got 0, expected an integer >= 1"),
        ({"num_hidden_layers": -3}, "field 'num_hidden_layers': got -3, expected an integer >= 1"),
        ({"num_attention_heads": 2.5}, "field 'num_attention_heads': got 2.5, expected an integer >= 1"),
        ({"num_key_value_heads": 5}, "field 'num_key_value_heads': got 5, expected a divisor"),
        ({"head_dim": None}, "field 'head_dim': missing"),
        ({"head_dim": 33}, "field 'head_dim': got 33, expected an even integer"),
        ({"max_position_embeddings": True}, "field 'max_position_embeddings': got True"),
        ({"mask_token_id": None}, "field 'mask_token_id': missing"),
        ({"mask_token_id": -1}, "field 'mask_token_id': got -1, expected an integer >= 0"),
        ({"mask_token_id": 131072}, "field 'mask_token_id': got 131072, expected an id below vocab_size"),
        ({"block_size": 0}, "field 'block_size': got 0, expected an integer >= 1"),
        ({"block_size": 10**9}, "field 'block_size': got 1000000000, expected at most max_position"),
        ({"rms_norm_eps": 0.0}, "field 'rms_norm_eps': got 0.0, expected a finite number > 0"),
        ({"rms_norm_eps": float("nan")}, "field 'rms_norm_eps': got nan"),
        ({"hidden_act": "gelu"}, "field 'hidden_act': got 'gelu', expected 'silu'"),
        ({"attention_bias": True}, "field 'attention_bias': got True, expected False"),
        ({"mlp_bias": True}, "field 'mlp_bias': got True, expected False"),
        ({"tie_word_embeddings": True}, "field 'tie_word_embeddings': got True, expected False"),
        ({"sliding_window": 4096}, "field 'sliding_window': got 4096, expected None"),
        ({"eos_token_id": "11"}, "field 'eos_token_id': got '11'"),
        ({"rope_parameters": None}, "field 'rope_parameters': missing"),
        ({"rope_parameters": [1]}, r"field 'rope_parameters': got \[1\], expected an object"),
    ],
)
def test_absurd_fields_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        NemotronLabsDiffusionConfig(**fields(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_type": "longrope"}, "field 'rope_parameters.rope_type': got 'longrope'"),
        ({"rope_theta": None}, "field 'rope_parameters.rope_theta': missing"),
        ({"rope_theta": 1.0}, "field 'rope_parameters.rope_theta': got 1.0, expected a finite number > 1"),
        ({"factor": None}, "field 'rope_parameters.factor': missing"),
        ({"factor": 0}, "field 'rope_parameters.factor': got 0, expected a finite number > 0"),
        ({"factor": "16"}, "field 'rope_parameters.factor': got '16'"),
        ({"original_max_position_embeddings": 0}, "original_max_position_embeddings': got 0"),
        ({"beta_fast": 1.0}, "field 'rope_parameters.beta_fast': got 1.0, expected more than beta_slow"),
        ({"llama_4_scaling_beta": "x"}, "field 'rope_parameters.llama_4_scaling_beta': got 'x'"),
    ],
)
def test_absurd_rope_fields_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        NemotronLabsDiffusionConfig(**with_rope(**changes))


def test_package_import_stays_light():
    check = (
        "import sys, nemotron_diffusion_plugin, nemotron_diffusion_plugin.options;"
        "print({'torch', 'transformers', 'vllm', 'sglang'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, text=True).stdout
    assert shown.strip() == "set()"
