import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from nemotron_diffusion_plugin.model.errors import CheckpointError
from nemotron_diffusion_plugin.model.lora import DrafterLora
from nemotron_diffusion_plugin.model.reader import read_config


def load(folder, **arguments):
    return DrafterLora.load(folder, read_config(folder), **arguments)


def edit(folder, **changes):
    path = folder / "linear_spec_lora" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_names_shapes_and_scale(folder):
    names = load_file(folder / "linear_spec_lora" / "adapter_model.safetensors")
    assert names["base_model.model.encoder.layers.1.self_attn.o_proj.lora_A.weight"].shape == (8, 64)
    assert names["base_model.model.encoder.layers.1.self_attn.o_proj.lora_B.weight"].shape == (32, 8)
    adapter = load(folder)
    assert (adapter.rank, adapter.alpha, adapter.scale) == (8, 32.0, 4.0)
    assert len(adapter.a) == len(adapter.b) == 2


def test_rank_and_alpha_are_read_from_the_file(folder):
    edit(folder, lora_alpha=12)
    assert load(folder).scale == 1.5


def test_delta_is_b_of_a_times_scale(folder):
    adapter = load(folder)
    x = torch.randn(3, 5, 64)
    for layer in range(2):
        expected = adapter.scale * (x @ adapter.a[layer].T @ adapter.b[layer].T)
        torch.testing.assert_close(adapter.delta(layer, x), expected)


def test_a_base_model_has_no_adapter(sharded):
    assert load(sharded) is None


def test_a_new_adapter_changes_nothing_and_survives_saving(folder):
    config = read_config(folder)
    adapter = DrafterLora.create(config, rank=4, alpha=16.0, generator=torch.Generator().manual_seed(0))
    assert adapter.delta(0, torch.randn(2, 64)).abs().max() == 0.0
    assert all(parameter.requires_grad for parameter in adapter.parameters())
    torch.nn.init.normal_(adapter.b[0])
    adapter.save(folder, torch.bfloat16)
    loaded = load(folder, dtype=torch.float32)
    assert (loaded.rank, loaded.scale) == (4, 4.0)
    torch.testing.assert_close(loaded.b[0], adapter.b[0], rtol=1e-2, atol=1e-2)


def test_target_modules_may_be_a_plain_string(folder):
    edit(folder, target_modules="o_proj")
    assert load(folder).rank == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "field 'peft_type': got 'IA3', expected 'LORA'"),
        ({"target_modules": ["q_proj", "o_proj"]}, "field 'target_modules': got"),
        ({"r": 0}, "field 'r': got 0, expected an integer >= 1"),
        ({"r": True}, "field 'r': got True"),
        ({"r": None}, "field 'r': got None"),
        ({"lora_alpha": -1}, "field 'lora_alpha': got -1, expected a number > 0"),
        ({"lora_alpha": "512"}, "field 'lora_alpha': got '512'"),
        ({"bias": "all"}, "field 'bias': got 'all', expected 'none'"),
        ({"use_rslora": True}, "field 'use_rslora': got True, expected False"),
        ({"use_dora": True}, "field 'use_dora': got True"),
        ({"rank_pattern": {"o_proj": 4}}, "field 'rank_pattern': got"),
        ({"layers_to_transform": [0]}, "field 'layers_to_transform': got"),
    ],
)
def test_adapters_of_another_kind_are_refused(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_missing_files(folder):
    adapter = folder / "linear_spec_lora"
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter_model.safetensors: .*not a safetensors file"):
        load(folder)
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"adapter_config.json: missing"):
        load(folder)


def test_config_that_is_no_json(folder):
    (folder / "linear_spec_lora" / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not readable as a JSON object"):
        load(folder)


def test_wrong_names_and_shapes(folder):
    path = folder / "linear_spec_lora" / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({name.replace("base_model.", ""): tensor for name, tensor in tensors.items()}, path)
    with pytest.raises(CheckpointError, match=r"4 tensors missing .*base_model.*4 unknown .*model.encoder"):
        load(folder)
    save_file(tensors, path)
    edit(folder, r=4)
    with pytest.raises(CheckpointError, match=r"lora_A.weight': found \[8, 64\], expected \[4, 64\]"):
        load(folder)
