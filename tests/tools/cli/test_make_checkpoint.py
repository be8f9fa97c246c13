import json

import pytest
from safetensors import SafetensorError

from nemotron_diffusion_plugin.model.reader import inspect_tensors, read_config
from nemotron_diffusion_plugin.tools.training import random_model


def test_writes_what_was_asked(run, tmp_path):
    folder = tmp_path / "new"
    result = run(
        *("make-checkpoint", folder, "--seed", "3", "--shards", "2", "--no-lora", "--dtype", "bfloat16"),
        *("--set", "num_hidden_layers=1", "--set", "hidden_size=64", "--set", "rope_parameters.factor=0.25"),
    )
    assert result.exit_code == 0, result.output
    assert "12 tensors in 2 files, without a drafter LoRA" in result.output
    config = read_config(folder)
    assert (config.num_hidden_layers, config.hidden_size) == (1, 64)
    assert config.rope_parameters["factor"] == 0.25
    assert len(inspect_tensors(folder, config)) == 12
    assert len(list(folder.glob("model-*.safetensors"))) == 2
    assert json.loads((folder / "config.json").read_text())["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--shards", "0"), "--shards: got 0, expected 1 to 30, the number of tensors"),
        (("--set", "hidden_size"), "--set: got 'hidden_size', expected FIELD=VALUE"),
        (("--set", "=3"), "--set: got '=3', expected FIELD=VALUE"),
        (("--set", "hidden=3"), "--set: unknown field 'hidden', expected one of vocab_size, hidden_size"),
        (("--set", "hidden_size=big"), "field 'hidden_size': got 'big', expected an integer >= 1"),
        (("--set", "rope_parameters.factor=-1"), "field 'rope_parameters.factor': got -1"),
        (("--set", "vocab_size=50", "--set", "mask_token_id=3"), "vocab_size"),
    ],
)
def test_bad_input_is_one_line(fails, tmp_path, arguments, message):
    assert message in fails("make-checkpoint", tmp_path / "new", *arguments)


def test_a_folder_in_use_is_left_alone(run, fails, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert "exists and is not an empty folder" in fails("make-checkpoint", tmp_path)
    assert "exists and is not an empty folder" in fails("make-checkpoint", tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert run("make-checkpoint", tmp_path, "--force", "--set", "num_hidden_layers=1").exit_code == 0


@pytest.mark.parametrize(
    "wrong",
    [
        ("--set", "vocab_size=50", "--set", "mask_token_id=3"),
        ("--set", "hidden_size=1000000000"),
        ("--set", "num_hidden_layers=1000000000"),
        ("--shards", "1000"),
        ("--seed", str(2**64)),
    ],
)
def test_the_corrected_command_is_not_refused(run, fails, tmp_path, wrong):
    fails("make-checkpoint", tmp_path / "new", *wrong)
    assert list(tmp_path.iterdir()) == []
    assert run("make-checkpoint", tmp_path / "new", "--set", "num_hidden_layers=1").exit_code == 0


def test_a_model_larger_than_the_memory_says_so(fails, tmp_path):
    message = fails("make-checkpoint", tmp_path / "new", "--set", "hidden_size=1000000000")
    assert "GB in float32; expected one that fits into this machine's" in message


def test_a_failure_leaves_what_was_there(run, tmp_path, monkeypatch):
    """Also with --force, and also when it comes in the middle of writing."""
    (tmp_path / "config.json").write_text("mine")

    def full(*_, **__):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(random_model, "save_file", full)
    result = run("make-checkpoint", tmp_path, "--force", "--set", "num_hidden_layers=1")
    assert result.exit_code == 1
    assert result.stderr == f"error: {tmp_path}: No space left on device\n"
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("config.json", "mine")]
