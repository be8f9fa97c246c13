import importlib
import json
import os
import shutil
import subprocess
import sys
import types

import pytest
import torch
from safetensors.torch import load_file, save_file

from nemotron_diffusion_plugin import __version__
from nemotron_diffusion_plugin.serving import overrides
from nemotron_diffusion_plugin.tools import extras
from nemotron_diffusion_plugin.tools.cli import system_checks


@pytest.fixture
def folder(random_checkpoint, tmp_path):
    return shutil.copytree(random_checkpoint, tmp_path / "checkpoint")


@pytest.fixture
def wrong(run, monkeypatch):
    """Doctor's line about the one thing that is wrong with a checkpoint."""
    monkeypatch.setattr(system_checks, "installation", lambda: [])

    def invoke(folder):
        result = run("doctor", folder, "--no-engines")
        assert result.exit_code == 1, result.output
        assert "1 checks failed" in result.output
        [line] = [line for line in result.output.splitlines() if line.startswith("WRONG")]
        return line

    return invoke


def test_a_sound_checkpoint_passes(run, random_checkpoint, monkeypatch):
    monkeypatch.setattr(system_checks, "installation", lambda: [("python", True, "3")])
    result = run("doctor", random_checkpoint, "--no-engines")
    assert result.exit_code == 0, result.output
    assert "all checks passed" in result.output
    assert "21 tensors in 1 file(s)" in result.output
    assert "rank 8, scale 4, on every o_proj" in result.output


def test_a_base_model_passes_without_lora(run, folder, monkeypatch):
    monkeypatch.setattr(system_checks, "installation", lambda: [])
    shutil.rmtree(folder / "linear_spec_lora")
    result = run("doctor", folder, "--no-engines")
    assert result.exit_code == 0, result.output
    assert "none (a base model)" in result.output


def test_missing_config(wrong, tmp_path):
    assert "no config.json" in wrong(tmp_path)


def test_what_is_no_folder(wrong, tmp_path):
    (tmp_path / "file").touch()
    for place in ("none", "file"):
        assert "no such folder, expected one with a checkpoint" in wrong(tmp_path / place)


def test_a_config_that_cannot_be_read(wrong, tmp_path):
    (tmp_path / "config.json").mkdir()
    line = wrong(tmp_path)
    assert "config.json: Is a directory" in line
    assert "[Errno" not in line


def test_absurd_config(wrong, folder):
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, "mask_token_id": -1}))
    assert "field 'mask_token_id': got -1" in wrong(folder)


def test_truncated_weights(wrong, folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "truncated" in wrong(folder)


@pytest.mark.parametrize(
    ("value", "message"), [(float("nan"), "holds NaN or infinite values"), (0.0, "1 tensors are all zero")]
)
def test_values_that_cannot_be_right(wrong, folder, value, message):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["encoder.norm.weight"] = torch.full_like(tensors["encoder.norm.weight"], value)
    save_file(tensors, path)
    line = wrong(folder)
    assert message in line
    assert "encoder.norm.weight" in line


def test_an_adapter_that_does_nothing(wrong, folder):
    path = folder / "linear_spec_lora" / "adapter_model.safetensors"
    save_file({k: v * 0 if "lora_B" in k else v for k, v in load_file(path).items()}, path)
    assert "the adapter changes nothing in layer 0" in wrong(folder)


def test_tokenizer_problems(wrong, folder):
    (folder / "tokenizer.json").write_text("{")
    assert "tokenizer.json: not readable" in wrong(folder)
    (folder / "tokenizer.json").unlink()
    assert "tokenizer.json is missing" in wrong(folder)


def test_an_end_of_turn_that_is_not_the_end_of_text(wrong, folder):
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, "eos_token_id": 2}))
    assert "<|im_end|> is 11, but eos_token_id is 2: answers would not end" in wrong(folder)


def test_missing_chat_template(wrong, folder):
    (folder / "chat_template.jinja").unlink()
    assert "no chat_template.jinja" in wrong(folder)


def test_installation_lists_versions_and_says_what_to_install(monkeypatch):
    rows = {name: (good, detail) for name, good, detail in system_checks.installation()}
    assert rows["nemotron-diffusion-plugin"] == (True, __version__)
    assert rows["torch"] == (True, torch.__version__)
    assert rows["vllm"][0]
    assert rows["GPU"][0]
    monkeypatch.setattr(system_checks, "_version", lambda name: None)
    monkeypatch.setattr(system_checks.metadata, "entry_points", lambda **selection: [])
    rows = {name: (good, detail) for name, good, detail in system_checks.installation()}
    assert rows["torch"] == (False, extras.missing("torch"))
    assert rows["vllm"] == (True, "not installed")
    assert rows["sglang"] == (True, "not installed")
    for group in ("vllm.general_plugins", "sglang.srt.plugins", "console_scripts"):
        good, detail = rows[f"entry point {group}"]
        assert not good
        assert "is missing, install the package" in detail


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_failing_engine_is_a_finding(engine, monkeypatch):
    def fail():
        raise RuntimeError("engine is broken")

    plugin = importlib.import_module(f"nemotron_diffusion_plugin.{engine}")
    check = getattr(system_checks, engine)
    monkeypatch.setattr(system_checks, "is_installed", lambda name: True)
    stand_in_for_sglang(monkeypatch)
    monkeypatch.setattr(plugin, "register", fail)
    assert check() == [("registration", False, "RuntimeError: engine is broken")]
    monkeypatch.setattr(system_checks, "is_installed", lambda name: False)
    assert check() == [(engine, True, "not installed, nothing to check")]


def test_hooks_of_sglang_are_in_place_before_it_is_asked(monkeypatch):
    from nemotron_diffusion_plugin import sglang as plugin

    calls = []
    monkeypatch.setattr(system_checks, "is_installed", lambda name: True)
    stand_in_for_sglang(monkeypatch, lambda: calls.append("hooks"))
    monkeypatch.setattr(plugin, "register", lambda: calls.append("register"))
    monkeypatch.setattr(plugin, "diagnose", lambda: calls.append("diagnose") or [("patch", True, "reason")])
    monkeypatch.setattr(overrides, "engine_classes", lambda package: calls.append(package) or [int, str])
    monkeypatch.setattr(overrides, "is_checked", lambda cls: cls is int)
    fitting = "1 classes fit those of the engine that they derive from"
    assert system_checks.sglang() == [("patch", True, "reason"), ("overrides", True, fitting)]
    assert calls == ["register", "hooks", "diagnose", "nemotron_diffusion_plugin.sglang"]


def test_an_override_that_does_not_fit_is_a_finding(monkeypatch):
    def refuse(package):
        raise overrides.OverrideError(f"{package} does not fit")

    plugin = importlib.import_module("nemotron_diffusion_plugin.vllm")
    monkeypatch.setattr(system_checks, "is_installed", lambda name: True)
    monkeypatch.setattr(plugin, "register", lambda: None)
    monkeypatch.setattr(plugin, "diagnose", lambda: [])
    monkeypatch.setattr(overrides, "engine_classes", refuse)
    assert system_checks.vllm() == [("overrides", False, "nemotron_diffusion_plugin.vllm does not fit")]


def stand_in_for_sglang(monkeypatch, apply_hooks=lambda: None):
    """SGLang's hook registry, where SGLang is not installed too."""
    registry = types.ModuleType("sglang.srt.plugins.hook_registry")
    registry.HookRegistry = types.SimpleNamespace(apply_hooks=apply_hooks)
    packages = [types.ModuleType(name) for name in ("sglang", "sglang.srt", "sglang.srt.plugins")]
    for module in (*packages, registry):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_no_engine_is_imported_unless_it_is_asked_for(run, random_checkpoint, monkeypatch):
    monkeypatch.setattr(system_checks, "installation", lambda: [])
    for engine in ("vllm", "sglang"):
        monkeypatch.setattr(system_checks, engine, lambda engine=engine: [(f"{engine} patch", False, "gone")])
    result = run("doctor", random_checkpoint, "--no-engines")
    assert result.exit_code == 0, result.output
    result = run("doctor", random_checkpoint)
    assert result.exit_code == 1
    assert "2 checks failed" in result.output
    assert [line.split()[1] for line in result.output.splitlines() if "WRONG" in line] == ["vllm", "sglang"]


def test_details_are_shown_as_they_are(run, random_checkpoint, monkeypatch):
    detail = "found [48, 32], expected [bold] and [/bold]"
    monkeypatch.setattr(system_checks, "installation", lambda: [("check", False, detail)])
    result = run("doctor", random_checkpoint, "--no-engines")
    assert detail in result.output
    assert result.exit_code == 1


def test_without_torch_it_says_what_to_install_and_checks_the_rest():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from nemotron_diffusion_plugin.tools.cli import app; app(['doctor', '--no-engines'])"
    )
    variables = {**os.environ, "COLUMNS": "400"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=variables
    )
    assert result.returncode == 1
    assert result.stderr == ""
    rows = [line.split(maxsplit=2) for line in result.stdout.splitlines() if line.startswith(("ok", "WRONG"))]
    found = {name: (verdict, detail.strip()) for verdict, name, detail in rows}
    assert found["torch"] == ("WRONG", extras.missing("torch"))
    assert found["GPU"] == ("ok", "unknown without torch")
    assert found["checkpoint"] == ("ok", "not checked, as torch is not installed")


def test_a_torch_that_does_not_load_is_a_finding(monkeypatch):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "torch":
                raise OSError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(system_checks, "is_installed", lambda name: True)
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert system_checks._gpu() == (
        "GPU",
        False,
        "torch cannot be imported: libcudart.so.13: cannot open shared object file",
    )
