import json
import re

import pytest

from benchmarks import real_size
from nemotron_diffusion_plugin.model.hardware import GPUS
from nemotron_diffusion_plugin.model.lora import read_adapter_config
from nemotron_diffusion_plugin.model.reader import read_config
from nemotron_diffusion_plugin.model.shapes import PUBLISHED, read_shape
from nemotron_diffusion_plugin.tools.bench.result import Load, Result
from nemotron_diffusion_plugin.tools.bench.setup import Setup
from nemotron_diffusion_plugin.tools.roofline.report import Setting


@pytest.fixture
def result(tmp_path):
    setup = Setup(
        "vllm",
        "folder",
        ("ar", "eagle3", "self_speculation"),
        ("all",),
        concurrency=(2,),
        repeats=2,
        synthetic={"modes": 6.0, "eagle3": 2.5},
    )
    result = Result(tmp_path / "bench.json", setup)
    for method, each in (("ar", 0.01), ("eagle3", 0.006), ("self_speculation", 0.004)):
        for repeat in (0, 1):
            times = [each * (1 + repeat)] * 3
            result.add_load(Load(method, 2, repeat, 3, 9, 600, 1.0 + repeat, per_token=times))
    return result


@pytest.mark.parametrize("size", [*PUBLISHED, "small"])
def test_a_folder_of_the_published_shape_without_weights(tmp_path, size, monkeypatch):
    monkeypatch.setattr(real_size, "write_tokenizer", lambda folder, vocab: None)
    model, head = real_size.write_checkpoints(tmp_path, size)
    config = read_config(model)
    assert not list(tmp_path.rglob("*.safetensors"))
    assert read_adapter_config(model / "linear_spec_lora" / "adapter_config.json") == (128, 512.0)
    shape = read_shape(model)
    if size != "small":
        known = PUBLISHED[size]
        assert (shape.parameters, shape.kv_per_token) == (known.parameters, known.kv_per_token)
        assert config.rope_parameters["rope_theta"] == (1e9 if size == "14B" else 1e6)
    drafter = json.loads((head / "config.json").read_text())
    assert drafter["hidden_size"] == shape.hidden
    assert drafter["draft_vocab_size"] == min(32000, shape.vocab)
    layers = drafter["eagle_aux_hidden_state_layer_ids"]
    assert len(set(layers)) == 3, "vLLM reads a layer that is named twice once"
    assert 0 < min(layers) <= max(layers) < shape.layers


def test_prompts_are_different_and_as_long_as_asked(tmp_path):
    path = tmp_path / "prompts.jsonl"
    real_size.write_prompts(path, 50)
    texts = [json.loads(line)["messages"][0]["content"] for line in path.read_text().splitlines()]
    assert len(set(texts)) == 256
    assert {len(text) for text in texts} == {200}


def test_a_cycle_is_the_time_per_token_times_the_tokens_per_cycle(result):
    ar, eagle3, ours = real_size.costs(result)
    assert (ar.cycle.least, ar.cycle.most) == (0.01, 0.02)
    assert eagle3.cycle.median == pytest.approx(2.5 * 0.009)
    assert ours.cycle.median == pytest.approx(6.0 * 0.006)
    assert ours.tokens_per_second.median == 450


def test_the_share_of_the_ceiling(result):
    ceiling = Setting(PUBLISHED["8B"], GPUS["h200"], contexts=(0,), concurrencies=(2,))
    page = real_size.cost_table(result, ceiling, 0)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines()[2:]]
    assert [row[:3] for row in rows] == [
        ["AR", "2", "1"],
        ["Eagle3", "2", "2.5"],
        ["self-speculation", "2", "6"],
    ]
    most = ceiling.ceiling(ceiling.methods[0], 0, 2)
    assert rows[0][3:] == ["15.00 (10.00–20.00)", "450 (300–600)", f"{100 * 450 / most:.0f} %"]
    assert all(re.fullmatch(r"\d+ %", row[-1]) for row in rows)
    assert "–" in real_size.cost_table(result, None, 0).splitlines()[2]
