"""The promises of docs/security.md that no other test holds."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from nemotron_diffusion_plugin.model.spec import TEXT
from nemotron_diffusion_plugin.options import OPTION_NAMES, DecodingOptions, OptionError
from nemotron_diffusion_plugin.serving.lora_files import Source, find_drafter_lora

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("nemotron_diffusion_plugin", "kernels", "patches")
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN_NAMES = {"eval", "exec", "compile", "__import__"}


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def objections(tree: ast.Module) -> list[str]:
    """What a module does that could run code it was given."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in FORBIDDEN_NAMES or called == "torch.load":
                found.append(called)
        elif isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            found.append("trust_remote_code")
    return found


def test_nothing_unpickles_or_runs_what_it_was_given() -> None:
    seen = 0
    for path, tree in sources():
        assert objections(tree) == [], path
        seen += 1
    assert seen > 100


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "torch.load(path)",
        "eval(text)",
        "AutoConfig.from_pretrained(folder, trust_remote_code=True)",
    ],
)
def test_the_search_finds_it(code: str) -> None:
    assert objections(ast.parse(code)) != []


def test_no_option_is_a_path() -> None:
    """Every option refuses text that is not one of its words, so none can name a file."""
    defaults = DecodingOptions()
    for name in OPTION_NAMES:
        for value in ("/etc/passwd", "../linear_spec_lora", b"x", ["a"], {"a": 1}, object()):
            with pytest.raises(OptionError, match=name):
                DecodingOptions.parse({name: value}, defaults, 32)


def test_the_adapter_lies_in_a_fixed_folder() -> None:
    assert TEXT.lora_folder == "linear_spec_lora"
    arguments = {*inspect.signature(find_drafter_lora).parameters, *(field.name for field in fields(Source))}
    assert not {"lora", "adapter", "path", "folder"} & arguments
