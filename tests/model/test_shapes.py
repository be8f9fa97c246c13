import json
from dataclasses import replace

import pytest

from nemotron_diffusion_plugin.assets import BUNDLED_CHECKPOINT
from nemotron_diffusion_plugin.model.shapes import PUBLISHED, find_shape, read_shape

CONFIG = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 34,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 131072,
    "tie_word_embeddings": False,
}


def write(folder, **changes):
    fields = {name: value for name, value in {**CONFIG, **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


@pytest.mark.parametrize(
    ("model", "parameters", "kv_bytes"),
    [("3B", 3_831_659_520, 106_496), ("8B", 8_489_553_920, 139_264), ("14B", 13_506_073_600, 163_840)],
)
def test_published_counts(model, parameters, kv_bytes):
    assert PUBLISHED[model].parameters == parameters
    assert 2 * PUBLISHED[model].kv_per_token == kv_bytes


def test_names_in_any_case_and_folders(tmp_path):
    assert find_shape("8b") is PUBLISHED["8B"]
    assert replace(find_shape(str(write(tmp_path))), name="8B") == PUBLISHED["8B"]


def test_counts_of_the_bundled_checkpoint_are_those_of_its_file():
    from nemotron_diffusion_plugin.model.names import expected_shapes
    from nemotron_diffusion_plugin.model.reader import read_config

    values = 0
    for shape in expected_shapes(read_config(BUNDLED_CHECKPOINT)).values():
        product = 1
        for size in shape:
            product *= size
        values += product
    assert read_shape(BUNDLED_CHECKPOINT).parameters == values


def test_defaults_of_older_configs(tmp_path):
    shape = read_shape(write(tmp_path, head_dim=None, num_key_value_heads=None))
    assert (shape.head_dim, shape.kv_heads) == (128, 32)


def test_a_tied_head_is_read_but_has_no_embedding_of_its_own(tmp_path):
    shape = read_shape(write(tmp_path, tie_word_embeddings=True))
    assert shape.embedding == 0
    assert shape.network == PUBLISHED["8B"].network


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": None}, "field 'hidden_size': missing"),
        ({"vocab_size": 0}, "field 'vocab_size': got 0, expected an integer from 1"),
        ({"vocab_size": 10**400}, "field 'vocab_size': got 1000"),
        ({"head_dim": True}, "field 'head_dim': got True"),
        ({"num_hidden_layers": "34"}, "field 'num_hidden_layers': got '34'"),
        ({"num_key_value_heads": 5}, "field 'num_key_value_heads': got 5, expected a divisor of 32"),
        ({"num_experts": 64}, "field 'num_experts': a mixture of experts"),
    ],
)
def test_a_config_it_does_not_cover(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_shape(write(tmp_path, **changes))


@pytest.mark.parametrize(("text", "message"), [("[1]", "expected a JSON object"), ("{", "not valid JSON")])
def test_a_broken_config(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_shape(tmp_path)


def test_neither_a_name_nor_a_folder(tmp_path):
    with pytest.raises(ValueError, match="got '9B', expected 3B, 8B, 14B or a folder"):
        find_shape("9B")
    with pytest.raises(FileNotFoundError):
        find_shape(str(tmp_path))
