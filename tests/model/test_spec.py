"""What an architecture's spec says, and that another architecture needs no more than one."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from transformers import AutoConfig

from nemotron_diffusion_plugin.model import spec as module
from nemotron_diffusion_plugin.model.config import NemotronLabsDiffusionConfig
from nemotron_diffusion_plugin.model.errors import CheckpointError
from nemotron_diffusion_plugin.model.lora import DrafterLora
from nemotron_diffusion_plugin.model.names import check_names, expected_shapes
from nemotron_diffusion_plugin.model.reader import read_config
from nemotron_diffusion_plugin.model.spec import TEXT, is_served, register, spec_of, text_tensors


class OtherConfig(NemotronLabsDiffusionConfig):
    """A configuration of an architecture that does not exist."""

    model_type = "nemotron_labs_diffusion_other"


OTHER = replace(
    TEXT,
    architecture="NemotronLabsDiffusionOtherModel",
    config_class=OtherConfig,
    tensors=lambda config: {**text_tensors(config), "encoder.tower.weight": (config.hidden_size,)},
    prefixes={"encoder.tower.": "tower.", **TEXT.prefixes},
    lora_folder="other_lora",
    takes_images=True,
)


@pytest.fixture
def other(monkeypatch):
    monkeypatch.setattr(module, "SPECS", (TEXT, OTHER))
    monkeypatch.setattr("nemotron_diffusion_plugin.model.reader.SPECS", (TEXT, OTHER))
    return OTHER


@pytest.fixture
def other_folder(folder):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": OtherConfig.model_type}))
    return folder


@pytest.mark.parametrize(
    ("published", "engines"),
    [
        ("encoder.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("diffusion_head.weight", "lm_head.weight"),
        ("encoder.encoder.x", "model.encoder.x"),
        ("a.diffusion_head.b", "a.diffusion_head.b"),
        ("lm_head.c", "lm_head.c"),
        ("model.encoder.x", "model.encoder.x"),
    ],
)
def test_only_the_beginning_of_a_name_is_replaced(published, engines):
    assert TEXT.engine_name(published) == engines
    assert list(TEXT.renamed([(published, 7)])) == [(engines, 7)]


def test_the_first_prefix_that_fits_counts():
    assert OTHER.engine_name("encoder.tower.weight") == "tower.weight"
    assert OTHER.engine_name("encoder.norm.weight") == "model.norm.weight"


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("encoder.layers.11.self_attn.k_scale", True),
        ("encoder.layers.0.self_attn.v_scale", True),
        ("encoder.layers.0.self_attn.q_scale", False),
        ("encoder.layers.0.self_attn.k_scale.x", False),
        ("encoderxlayers.0.self_attn.k_scale", False),
        ("model.layers.0.self_attn.k_scale", False),
    ],
)
def test_kv_scales(name, is_one):
    assert TEXT.is_kv_scale(name) is is_one


def test_every_tensor_has_a_name_in_the_engines(folder):
    config = read_config(folder)
    assert all(TEXT.engine_name(name) != name for name in expected_shapes(config))
    assert all(name.startswith(tuple(TEXT.prefixes)) for name in expected_shapes(config))
    assert TEXT.decoder in TEXT.prefixes


def test_a_configuration_has_the_spec_of_its_model_type(folder, other):
    config = read_config(folder)
    assert spec_of(config) is TEXT
    assert spec_of(OtherConfig(**{k: v for k, v in config.to_dict().items() if k != "model_type"})) is OTHER
    with pytest.raises(KeyError, match="llama"):
        spec_of(SimpleNamespace(model_type="llama"))


@pytest.mark.parametrize(
    ("architectures", "served"),
    [
        (["NemotronLabsDiffusionModel"], True),
        (["LlamaForCausalLM", "NemotronLabsDiffusionModel"], True),
        (["LlamaForCausalLM"], False),
        (["NemotronLabsDiffusion"], False),
        ([], False),
        (None, False),
    ],
)
def test_which_configurations_are_served(architectures, served):
    assert is_served(SimpleNamespace(architectures=architectures)) is served


class TestAnotherArchitecture:
    def test_its_checkpoints_are_read(self, other_folder, other):
        config = read_config(other_folder)
        assert type(config) is OtherConfig
        names = expected_shapes(config)
        assert names["encoder.tower.weight"] == (config.hidden_size,)
        check_names(names, config)
        with pytest.raises(CheckpointError, match=r"expected 'encoder\.tower\.weight'"):
            check_names(text_tensors(config), config)

    def test_its_adapter_has_a_folder(self, other_folder, other, tmp_path):
        config = read_config(other_folder)
        assert DrafterLora.load(other_folder, config) is None
        DrafterLora.create(config, 2, 4.0).save(tmp_path)
        assert [path.name for path in tmp_path.glob("*_lora")] == ["other_lora"]
        (other_folder / "linear_spec_lora").rename(other_folder / "other_lora")
        adapter = DrafterLora.load(other_folder, config)
        assert adapter is not None
        assert adapter.spec is OTHER

    def test_it_is_registered_with_transformers(self, other_folder, other):
        register()
        register()
        assert type(AutoConfig.from_pretrained(other_folder)) is OtherConfig

    def test_without_its_spec_it_is_refused(self, other_folder):
        expected = "got 'nemotron_labs_diffusion_other', expected 'nemotron_labs_diffusion'$"
        with pytest.raises(CheckpointError, match=expected):
            read_config(other_folder)

    def test_the_refusal_names_all(self, other_folder, other):
        path = other_folder / "config.json"
        path.write_text('{"model_type": "llama"}')
        expected = "'nemotron_labs_diffusion' or 'nemotron_labs_diffusion_other'$"
        with pytest.raises(CheckpointError, match=expected):
            read_config(other_folder)
