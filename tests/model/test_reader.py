import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from nemotron_diffusion_plugin.model.errors import CheckpointError
from nemotron_diffusion_plugin.model.names import expected_shapes
from nemotron_diffusion_plugin.model.reader import (
    find_tensors,
    inspect_tensors,
    read_config,
    read_tensors,
)
from nemotron_diffusion_plugin.reference.model import ReferenceModel


def read(folder, dtype=None):
    return read_tensors(folder, read_config(folder), dtype)


def rewrite(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file(change(dict(tensors)), path)


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_single_file_and_shards_hold_the_same(single_file, sharded):
    one, three = read(single_file), read(sharded)
    assert list(one) == list(three) == list(expected_shapes(read_config(single_file)))
    assert all(torch.equal(one[name], three[name]) for name in one)
    assert len(set(find_tensors(sharded).values())) == 3
    assert not (sharded / "model.safetensors").exists()


def test_dtype_is_kept_or_converted(single_file):
    assert {tensor.dtype for tensor in read(single_file).values()} == {torch.float32}
    assert {tensor.dtype for tensor in read(single_file, torch.bfloat16).values()} == {torch.bfloat16}


def test_names_of_the_reference_model_are_the_published_ones(single_file):
    config = read_config(single_file)
    assert set(ReferenceModel(config).state_dict()) == set(expected_shapes(config))


def test_kv_scales_of_quantised_files_are_not_read(folder):
    rewrite(folder, lambda t: t | {"encoder.layers.0.self_attn.k_scale": torch.ones(1)})
    assert "encoder.layers.0.self_attn.k_scale" not in read(folder)


def test_prefixed_names_are_an_error(folder):
    rewrite(folder, lambda tensors: {f"model.{name}": tensor for name, tensor in tensors.items()})
    with pytest.raises(
        CheckpointError, match=r"'model.encoder.embed_tokens.weight'.*expected 'encoder.embed_tokens"
    ):
        read(folder)


def test_missing_tensor(folder):
    rewrite(folder, lambda tensors: {k: v for k, v in tensors.items() if k != "diffusion_head.weight"})
    with pytest.raises(CheckpointError, match=r"expected 'diffusion_head.weight'"):
        read(folder)


def test_wrong_shape(folder):
    edit_config(folder, intermediate_size=49)
    with pytest.raises(CheckpointError, match=r"gate_proj.weight: found \[48, 32\], expected \[49, 32\]"):
        inspect_tensors(folder, read_config(folder))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite(folder, value):
    def poison(tensors):
        tensors["encoder.norm.weight"][3] = value
        return tensors

    rewrite(folder, poison)
    with pytest.raises(CheckpointError, match=r"tensor 'encoder.norm.weight' holds NaN or infinite values"):
        read(folder)


def test_integer_tensor(folder):
    rewrite(folder, lambda tensors: tensors | {"encoder.norm.weight": torch.ones(32, dtype=torch.int64)})
    with pytest.raises(
        CheckpointError, match=r"'encoder.norm.weight' is torch.int64, expected floating point"
    ):
        read(folder)


@pytest.mark.parametrize("keep", [0, 5, 200, 0.5, 0.999])
def test_truncated_file(folder, keep):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    with pytest.raises(CheckpointError, match=r"model.safetensors: truncated or not a safetensors file"):
        read(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickle_files_are_refused(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(CheckpointError, match=f"safetensors only, found {name}"):
        read(folder)


def test_no_weights_and_unexpected_files(folder):
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    with pytest.raises(
        CheckpointError, match=r"no weights, found weights.safetensors; expected model.safetensors"
    ):
        read(folder)
    (folder / "weights.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no weights; expected model.safetensors"):
        read(folder)


def test_missing_shard(sharded_folder):
    (sharded_folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"shard model-00002-of-00003.safetensors is missing; .* puts 7 tensors"
    ):
        read(sharded_folder)


def test_truncated_shard(sharded_folder):
    path = sharded_folder / "model-00003-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model-00003-of-00003.safetensors: truncated"):
        read(sharded_folder)


def test_index_that_disagrees_with_a_shard(sharded_folder):
    path = sharded_folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["diffusion_head.weight"] = "model-00001-of-00003.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(
        CheckpointError, match=r"expects the tensor 'diffusion_head.weight' in it, but it is not there"
    ):
        read(sharded_folder)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": [1]}', '{"weight_map": null}'])
def test_broken_index(sharded_folder, content):
    (sharded_folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match="expected an object with 'weight_map'"):
        read(sharded_folder)


@pytest.mark.parametrize("file", ["../other.safetensors", "sub/x.safetensors", "pytorch_model.bin"])
def test_index_that_leaves_the_folder_or_names_pickles(sharded_folder, file):
    path = sharded_folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"encoder.norm.weight": file}}))
    with pytest.raises(CheckpointError, match=r"expected a .safetensors file beside it"):
        read(sharded_folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not readable as JSON"),
        ("[1]", "got a list, expected an object"),
        ('{"model_type": "llama"}', "field 'model_type': got 'llama', expected 'nemotron_labs_diffusion'"),
        ("{}", "field 'model_type': got None"),
        ('{"model_type": "nemotron_labs_diffusion"}', "field 'rope_parameters': missing"),
    ],
)
def test_broken_config(folder, content, message):
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        read_config(folder)


def test_missing_config_and_missing_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config.json, expected a folder with a checkpoint"):
        read_config(tmp_path)
    with pytest.raises(CheckpointError, match=r"no config.json"):
        read_config(tmp_path / "nowhere")


def test_an_absurd_config_field_names_the_file(folder):
    edit_config(folder, head_dim=31)
    with pytest.raises(
        CheckpointError, match=r"config.json: field 'head_dim': got 31, expected an even integer"
    ):
        read_config(folder)
