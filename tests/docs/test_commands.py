"""Commands that the pages show exist, with the options that they show."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from nemotron_diffusion_plugin.options import DecodingOptions
from nemotron_diffusion_plugin.settings import ServerSettings
from nemotron_diffusion_plugin.tools.cli import app
from tests.docs.pages import CHECKOUT, PAGES, blocks, commands, is_module, name_of, text_of

GROUP: Any = get_command(app)
COMMANDS: dict[str, Any] = GROUP.commands
REQUEST_FIELDS = ("vllm_xargs", "custom_params")
SERVER_FLAG = re.compile(r"--(?:additional-config|decoding-options) '(\{[^…]*?\})'")
OURS = ("benchmarks", "tests", "nemotron_diffusion_plugin", "nemotron_diffusion_patches")


def problem(command: str) -> str | None:
    """What is wrong with a command line of ours; None for others'."""
    words = command.split()
    if words[:1] == ["make"]:
        return _problem_of_make(words[1:])
    if words[:1] == ["nemotron-diffusion"] and len(words) > 1:
        return _problem_of_cli(words[1:])
    modules = re.findall(r"\s-m ([\w.]+)", command) if "python" in command else []
    missing = [name for name in modules if name.split(".")[0] in OURS and not is_module(name)]
    return f"no modules {missing}" if missing else None


def _problem_of_make(words: list[str]) -> str | None:
    makefile = text_of(CHECKOUT / "Makefile")
    targets = re.findall(r"^([\w-]+):", makefile, re.MULTILINE)
    variables = re.findall(r"^(\w+)\s*\?=", makefile, re.MULTILINE)
    named = [word for word in words if re.fullmatch(r"[a-z-]+", word)]
    given = [word.partition("=")[0] for word in words if re.match(r"[A-Z]+=", word)]
    unknown = sorted({*named} - {*targets} | {*given} - {*variables})
    return f"make does not know {unknown}" if unknown else None


def _problem_of_cli(words: list[str]) -> str | None:
    if any(words[0] in parameter.opts for parameter in GROUP.params):
        return None
    command = COMMANDS.get(words[0])
    if command is None:
        return f"no command {words[0]}"
    known = {
        option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    options = [word.partition("=")[0] for word in words[1:] if re.match(r"--?[a-z]", word)]
    unknown = [option for option in options if option not in known | {"--help"}]
    return f"{words[0]} does not take {unknown}" if unknown else None


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_exist(page: Path) -> None:
    wrong = {command: problem(command) for command in commands(text_of(page)) if problem(command)}
    assert wrong == {}


@pytest.mark.parametrize(
    "command",
    [
        *("nemotron-diffusion dance", "nemotron-diffusion bench --no-such-option 1", "make no-such-target"),
        *("make serve COLOUR=red", "python -m benchmarks.no_such", "$(python3.11 x.py) -m tests.no_such"),
    ],
)
def test_a_wrong_command_is_found(command: str) -> None:
    assert problem(command) is not None


@pytest.mark.parametrize(
    "command", ["nemotron-diffusion bench --model M", "make serve PORT=1", "pip install x"]
)
def test_a_good_command_is_not(command: str) -> None:
    assert problem(command) is None


def test_the_readme_lists_every_command() -> None:
    readme = text_of(CHECKOUT / "README.md")
    assert [name for name in COMMANDS if f"\nnemotron-diffusion {name} " not in readme] == []


def requests(page: Path) -> list[dict[str, Any]]:
    """The decoding options of the requests in a page's blocks: bodies of curl, and `extra_body` in Python."""
    found = []
    for language, block in blocks(text_of(page)):
        if language == "python":
            calls = (node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.keyword))
            bodies = [ast.literal_eval(one.value) for one in calls if one.arg == "extra_body"]
        else:
            bodies = [json.loads(body) for body in re.findall(r"-d '(.*?)'", block, re.DOTALL)]
        nested = [*bodies, *(body.get("sampling_params", {}) for body in bodies)]
        found += [body[field] for body in nested for field in REQUEST_FIELDS if field in body]
    return found


def test_options_of_the_requests_are_valid() -> None:
    shown = [options for page in PAGES for options in requests(page)]
    assert len(shown) >= 5
    for options in shown:
        DecodingOptions.parse(options, DecodingOptions(), 32)


def test_settings_of_the_servers_are_valid() -> None:
    shown = [found for page in PAGES for found in SERVER_FLAG.findall(text_of(page))]
    assert len(shown) >= 3
    for settings in shown:
        ServerSettings.read(32, json.loads(settings))
