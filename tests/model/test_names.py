import copy

import pytest

from nemotron_diffusion_plugin.model.config import NemotronLabsDiffusionConfig
from nemotron_diffusion_plugin.model.errors import CheckpointError
from nemotron_diffusion_plugin.model.names import check_names, check_shapes, expected_shapes
from nemotron_diffusion_plugin.tools.training.random_model import SMALL_CONFIG

PUBLISHED = {
    "3B": (3072, 9216, 26, 237, 3_831_659_520),
    "8B": (4096, 14336, 34, 309, 8_489_553_920),
    "14B": (5120, 16384, 40, 363, 13_506_073_600),
}


def config_of(**changes):
    return NemotronLabsDiffusionConfig(**copy.deepcopy({**SMALL_CONFIG, **changes}))


@pytest.mark.parametrize(
    ("hidden", "inner", "layers", "tensors", "parameters"), PUBLISHED.values(), ids=PUBLISHED
)
def test_published_counts(hidden, inner, layers, tensors, parameters):
    config = config_of(
        vocab_size=131072,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
    )
    shapes = expected_shapes(config)
    assert len(shapes) == tensors
    total = 0
    for shape in shapes.values():
        total += shape[0] * (shape[1] if len(shape) == 2 else 1)
    assert total == parameters
    assert shapes["encoder.layers.0.self_attn.k_proj.weight"] == (1024, hidden)
    assert shapes["encoder.layers.0.self_attn.o_proj.weight"] == (hidden, 4096)


def test_expected_names_pass_and_kv_scales_are_tolerated():
    config = config_of()
    names = [
        *expected_shapes(config),
        "encoder.layers.0.self_attn.k_scale",
        "encoder.layers.2.self_attn.v_scale",
    ]
    check_names(names, config)


@pytest.mark.parametrize(
    ("rename", "found", "prefix"),
    [
        (lambda name: f"model.{name}", "model.encoder.embed_tokens.weight", "'model.' before"),
        (
            lambda name: f"language_model.{name}",
            "language_model.encoder.embed_tokens.weight",
            "'language_model.'",
        ),
        (
            lambda name: name.replace("encoder.", "model."),
            "model.embed_tokens.weight",
            "'model.' instead of 'encoder.'",
        ),
        (lambda name: name.replace("encoder.", ""), "embed_tokens.weight", "'' instead of 'encoder.'"),
    ],
)
def test_another_prefix_names_found_and_expected(rename, found, prefix):
    config = config_of()
    with pytest.raises(CheckpointError) as caught:
        check_names([rename(name) for name in expected_shapes(config)], config)
    message = str(caught.value)
    assert "another prefix" in message
    assert prefix in message
    assert f"found '{found}'" in message
    assert "expected 'encoder.embed_tokens.weight'" in message


def test_missing_and_unknown_tensors_are_named():
    config = config_of()
    names = set(expected_shapes(config))
    with pytest.raises(CheckpointError, match=r"1 tensors are missing: expected 'encoder.norm.weight'"):
        check_names(names - {"encoder.norm.weight"}, config)
    with pytest.raises(
        CheckpointError, match=r"1 tensors are unknown: found 'encoder.layers.0.self_attn.q_norm.weight'"
    ):
        check_names(names | {"encoder.layers.0.self_attn.q_norm.weight"}, config)
    with pytest.raises(CheckpointError, match="30 tensors; the file holds 39"):
        check_names(expected_shapes(config_of(num_hidden_layers=4)), config)


def test_a_wrong_shape_is_named():
    config = config_of()
    shapes = expected_shapes(config)
    shapes["encoder.layers.1.self_attn.o_proj.weight"] = (128, 96)
    with pytest.raises(CheckpointError, match=r"o_proj.weight: found \[128, 96\], expected \[96, 128\]"):
        check_shapes(shapes, config)
