import json

import pytest
import torch
from safetensors.torch import load_file

from nemotron_diffusion_plugin.model.reader import read_config
from nemotron_diffusion_plugin.model.rope import yarn_ramp
from nemotron_diffusion_plugin.options import DecodingMode, DecodingOptions
from nemotron_diffusion_plugin.reference.decoder import ReferenceDecoder
from nemotron_diffusion_plugin.tools.training.random_model import SMALL_CONFIG, write_random_checkpoint

TINY = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 48}


def test_the_published_layout(tmp_path):
    write_random_checkpoint(tmp_path, config=TINY)
    raw = json.loads((tmp_path / "config.json").read_text())
    assert raw["architectures"] == ["NemotronLabsDiffusionModel"]
    assert raw["model_type"] == "nemotron_labs_diffusion"
    assert set(raw["auto_map"]) == {"AutoConfig", "AutoModel"}
    assert raw["dlm_paradigm"] == "bidirectional"
    assert raw["torch_dtype"] == "float32"
    present = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert present >= {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "model.safetensors",
        "linear_spec_lora/adapter_config.json",
        "linear_spec_lora/adapter_model.safetensors",
    }


def test_the_default_shape_exercises_what_small_models_do_not():
    heads, size = SMALL_CONFIG["num_attention_heads"], SMALL_CONFIG["head_dim"]
    assert heads * size != SMALL_CONFIG["hidden_size"]
    assert SMALL_CONFIG["num_key_value_heads"] < heads
    low, high = yarn_ramp(size, SMALL_CONFIG["rope_parameters"])
    assert 0 <= low < high < size // 2
    rope = SMALL_CONFIG["rope_parameters"]
    assert (
        rope["original_max_position_embeddings"] * rope["factor"] == SMALL_CONFIG["max_position_embeddings"]
    )


def test_the_same_seed_writes_the_same_weights(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_random_checkpoint(tmp_path / name, config=TINY, seed=seed)
    a, b, c = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not any(torch.equal(a[name], c[name]) for name in a)


def test_dtype_and_rope_overrides(tmp_path):
    config = write_random_checkpoint(
        tmp_path, config={**TINY, "rope_parameters": {"factor": 0.25}}, dtype=torch.bfloat16, lora=False
    )
    assert config.rope_parameters["factor"] == 0.25
    assert config.rope_parameters["llama_4_scaling_beta"] == 0.1
    assert load_file(tmp_path / "model.safetensors")["encoder.norm.weight"].dtype == torch.bfloat16
    assert read_config(tmp_path).dtype == torch.bfloat16
    assert not (tmp_path / "linear_spec_lora").exists()
    assert ReferenceDecoder.from_checkpoint(tmp_path).lora is None


def test_outputs_vary_and_confidences_spread(tmp_path):
    write_random_checkpoint(tmp_path, seed=0)
    reference = ReferenceDecoder.from_checkpoint(tmp_path)
    prompt = list(range(200, 240))
    spoken = reference.generate(prompt, 100, DecodingOptions(), ignore_eos=True)
    assert len(set(spoken.token_ids)) > 10
    assert 0 < sum(spoken.accepted) < len(spoken.accepted) * 31
    diffusion = DecodingOptions(decoding_mode=DecodingMode.DIFFUSION)
    steps = reference.generate(prompt, 100, diffusion, ignore_eos=True).denoise_steps
    assert 1 < sum(steps) / len(steps) < 31


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="shards: got 0, expected 1 to 30"):
        write_random_checkpoint(tmp_path, shards=0)
    with pytest.raises(ValueError, match="field 'head_dim': got 7"):
        write_random_checkpoint(tmp_path, config={"head_dim": 7})
    assert not list(tmp_path.iterdir())
