"""Where a server's defaults come from: the flag, the environment variable, the model."""

from __future__ import annotations

import argparse
import json
import os
from types import SimpleNamespace
from typing import Any

import pytest

from nemotron_diffusion_plugin.options import OptionError
from nemotron_diffusion_plugin.settings import SETTING_NAMES, ServerSettings
from nemotron_diffusion_plugin.sglang.front.flags import add_flags
from nemotron_diffusion_plugin.sglang.settings import FLAG, VARIABLE, parse_options, settings_of

MODEL: Any = SimpleNamespace(block_size=16)
GOOD = {"decoding_mode": "diffusion", "threshold": 0.5, "denoise_forwards_per_step": 5}
ERRORS = [
    ("{", f"{FLAG}: got '{{', expected a JSON object: "),
    ("threshold=1", f"{FLAG}: got 'threshold=1', expected a JSON object: "),
    ("[1]", f"{FLAG}: got '[1]', expected a JSON object of option names and values"),
    ("null", f"{FLAG}: got 'null', expected a JSON object of option names and values"),
    ('"ar"', f"{FLAG}: got '\"ar\"', expected a JSON object of option names and values"),
    ('{"treshold": 1}', f"{FLAG}: unknown option 'treshold', expected one of {', '.join(SETTING_NAMES)}"),
]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="serve")
    add_flags(None, made)
    return made


def test_the_models_own_defaults() -> None:
    assert settings_of(MODEL) == ServerSettings.read(16, None)
    del os.environ[VARIABLE]
    assert settings_of(MODEL) == ServerSettings.read(16, None)


def test_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, json.dumps(GOOD))
    assert settings_of(MODEL) == ServerSettings.read(16, GOOD) != ServerSettings.read(16, None)


def test_the_flag_reaches_every_process(parser: argparse.ArgumentParser) -> None:
    left = parser.parse_args([FLAG, json.dumps(GOOD)])
    assert json.loads(os.environ[VARIABLE]) == GOOD
    assert settings_of(MODEL) == ServerSettings.read(16, GOOD)
    assert vars(left) == {}, "SGLang makes its arguments of every attribute"


def test_the_flag_wins(parser: argparse.ArgumentParser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, '{"threshold": 0.25, "block_size": 4}')
    parser.parse_args([])
    assert settings_of(MODEL).defaults.threshold == 0.25
    parser.parse_args([FLAG, '{"threshold": 0.75}'])
    assert settings_of(MODEL) == ServerSettings.read(16, {"threshold": 0.75})


@pytest.mark.parametrize(("text", "message"), ERRORS)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(OptionError) as refused:
        parse_options(text)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(("text", "message"), ERRORS)
def test_in_the_variable_too(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(OptionError) as refused:
        settings_of(MODEL)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(("text", "message"), ERRORS)
def test_the_flag_ends_the_program(
    text: str, message: str, parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parser.parse_args([FLAG, text])
    assert ended.value.code == 2
    assert f"serve: error: {message}" in capsys.readouterr().err
    assert os.environ[VARIABLE] == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_size": 17}, "field 'block_size': got 17, expected an integer in 1 to 16"),
        ({"threshold": 2}, "field 'threshold': got 2, expected a number in (0, 1]"),
        ({"denoise_forwards_per_step": 0}, "field 'denoise_forwards_per_step': got 0, expected"),
    ],
)
def test_values_are_checked_against_the_model(
    options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, json.dumps(options))
    with pytest.raises(OptionError) as refused:
        settings_of(MODEL)
    assert str(refused.value).startswith(message)


def test_help_shows_the_flag(parser: argparse.ArgumentParser) -> None:
    text = " ".join(parser.format_help().split())
    assert FLAG in text
    assert VARIABLE in text
