"""Files and modules that the pages name in back quotes exist."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.docs.pages import CHECKOUT, PAGES, contents, is_module, module_file, name_of, quoted, text_of

ENDINGS = r"(?:py|md|json|jsonl|toml|txt|jinja|safetensors|png|css|html|js)"
PATH = re.compile(rf"(?:\.?[\w*-]+/)+(?:[\w.*-]+)?|[\w*-]+\.{ENDINGS}")
OURS = (
    "nemotron_diffusion_plugin",
    "nemotron_diffusion_kernels",
    "nemotron_diffusion_patches",
    "benchmarks",
    "tests",
)
NOT_HERE = {
    "nemo_skills/dataset/speed-bench/prepare.py": "a script of NVIDIA's",
    "qualitative.jsonl": "a file of SPEED-Bench",
    "FILE.json": "a user's",
    "FILE.jsonl": "a user's",
    "points.json": "a user's",
    "file.png": "a user's",
}
HUB = "nvidia/"
"""Models on the Hugging Face hub begin with this."""


def exists(path: str) -> bool:
    """Whether a path, a glob or the end of a path is there: `rules/commit.py` is in `nemotron_diffusion_plugin/`."""
    pattern = path.rstrip("/")
    return any(fnmatchcase(one, pattern) or fnmatchcase(one, f"*/{pattern}") for one in contents())


def is_missing(word: str) -> bool:
    """Whether a back-quoted word names a file, folder or module of ours that does not exist."""
    if word in NOT_HERE or word.startswith(HUB):
        return False
    if PATH.fullmatch(word):
        return not exists(word)
    if re.fullmatch(rf"(?:{'|'.join(OURS)})(?:\.\w+)+", word):
        return not is_module(word) and not _defines(*word.rpartition(".")[::2])
    return False


def _defines(module: str, name: str) -> bool:
    file = module_file(module)
    return file is not None and re.search(rf"\b{name}\b", text_of(CHECKOUT / file)) is not None


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_files_exist(page: Path) -> None:
    words = [word for phrase in quoted(text_of(page)) for word in phrase.split()]
    assert sorted({word for word in words if is_missing(word)}) == []


@pytest.mark.parametrize(
    "word",
    [
        *(
            "decoding/commit.py",
            "rules/comit.py",
            "checkpoint/",
            "tests/*/test_no_such.py",
            "graph_choice.py",
        ),
        *("nemotron_diffusion_plugin.decoding.auto", "benchmarks.no_such"),
        "nemotron_diffusion_plugin.rules.commit.chose",
    ],
)
def test_a_wrong_name_is_found(word: str) -> None:
    assert is_missing(word)


@pytest.mark.parametrize(
    "word",
    [
        *("rules/commit.py", "rules/", "tests/*/test_start.py", "adapter_config.json", "docs/model.md"),
        *(
            "nemotron_diffusion_plugin.rules.commit.choose",
            "benchmarks.policy",
            "/v1/completions",
            "nvidia/X",
        ),
    ],
)
def test_a_good_name_is_not(word: str) -> None:
    assert not is_missing(word)
