"""The snippets of docs/clients.md, made to run here: with this server, this model and packages that are installed."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from tests.clients import environment
from tests.engines import install
from tests.engines.commands import clean_environment
from tests.engines.recipe import load_recipe
from tests.engines.server import CHECKOUT, HOST

PAGE = CHECKOUT / "docs" / "clients.md"
MODEL = "nvidia/Nemotron-Labs-Diffusion-8B"
URL = "http://localhost:8000"
ON_SGLANG = {"vllm_xargs": "custom_params", "--backend vllm-chat": "--backend sglang-oai-chat"}
"""What the page says to replace there, beside the port."""

PROGRAMS = CHECKOUT / "tests" / "clients"
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "DO_NOT_TRACK": "1",
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), f"http://{HOST}:9"),  # nobody listens there
    "NO_PROXY": f"{HOST},localhost",
}
TASK = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/sums.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: exact_match}]
"""


@dataclass(frozen=True)
class Command:
    """A command line and all of its environment."""

    words: list[str]
    variables: Mapping[str, str]


def snippets() -> dict[str, tuple[str, str]]:
    """The language and the text of each client's snippet, by the heading above it."""
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    found = {}
    for section in sections:
        [(language, text)] = re.findall(r"^```(\w*)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
        found[section.partition("\n")[0]] = (language, text)
    return found


def program(name: str, *arguments: str) -> Command:
    """One of the programs beside this file, or a file elsewhere, in the clients' environment."""
    python = environment.install()
    return Command([str(python), str(PROGRAMS / name), *arguments], _clients_variables())


def command(
    client: str, url: str, model: str, is_vllm: bool, folder: Path, changes: Mapping[str, str] | None = None
) -> Command:
    """The command that does what a client's snippet says, with `changes` of its text; it may write to `folder`."""
    language, text = snippets()[client]
    here = {URL: url, MODEL: model, **({} if is_vllm else ON_SGLANG)}
    for old, new in [*here.items(), *(changes or {}).items()]:
        text = text.replace(old, new)
    if language == "python":
        file = folder / "snippet.py"
        file.write_text(text, encoding="utf-8")
        return program(str(file))
    words = shlex.split(text.replace("\\\n", " "))
    if words[0] == "vllm":
        return _of_engine("vllm", ["-m", "vllm.entrypoints.cli.main", *words[1:]])
    if words[:3] == ["python", "-m", "sglang.bench_serving"]:
        # SGLang's environment for a CPU lacks packages that only this program needs.
        return _of_engine("sglang", [str(PROGRAMS / "sglang_bench.py"), str(_packages()), *words[3:]])
    variables = _clients_variables()
    if words[0] == "aiperf":
        del variables["HF_HUB_OFFLINE"]  # with it AIPerf takes the path of a tokenizer for a name on the hub
    else:
        _write_task(folder)
        place = words.index("gsm8k")
        words[place : place + 1] = ["sums", "--include_path", str(folder)]
    return Command([str(environment.install().with_name(words[0])), *words[1:]], variables)


def _of_engine(engine: str, words: list[str]) -> Command:
    """A program of an engine's, in that engine's environment."""
    python = install.install(load_recipe(engine), install.detect_device())
    launch = import_module(f"tests.engines.{engine}.launch")
    return Command([str(python), *words], launch.environment({**clean_environment(), **OFFLINE}))


def _packages() -> Path:
    [folder] = environment.install().parents[1].glob("lib/python*/site-packages")
    return folder


def _clients_variables() -> dict[str, str]:
    return {**clean_environment(), **OFFLINE}


def _write_task(folder: Path) -> None:
    """Write a task of three sums, in place of one that would be downloaded."""
    (folder / "sums.yaml").write_text(TASK.replace("FOLDER", str(folder)))
    rows = [
        {"question": f"What is {a} + {b}?", "answer": f"{a + b}"} for a, b in ((34, 57), (23, 41), (12, 19))
    ]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
