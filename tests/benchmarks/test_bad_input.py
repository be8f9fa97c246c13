"""Every script under bad input: refused by name before any work, without a traceback, and nothing left behind.

Scripts are the modules that can be run, options those of their parsers, so new ones are tested too.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")
    for path in sorted((ROOT / "benchmarks").rglob("*.py"))
    if 'if __name__ == "__main__"' in path.read_text() and "ArgumentParser(" in path.read_text()
]
OUTPUTS = ("--output", "--out", "--json")
HUGE = 10**30


class Parsed(Exception):
    """Raised with the parser instead of reading the arguments."""


def call(script: str, *arguments: str) -> Any:
    """Run the main function of a script."""
    main: Callable[..., Any] = importlib.import_module(script).main
    if inspect.signature(main).parameters:
        return main(list(arguments))
    before, sys.argv = sys.argv, [script, *arguments]
    try:
        return main()
    finally:
        sys.argv = before


def parser_of(script: str) -> argparse.ArgumentParser:
    def parse(parser: argparse.ArgumentParser, *_: object) -> None:
        raise Parsed(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse)
        with pytest.raises(Parsed) as caught:
            call(script)
    found: argparse.ArgumentParser = caught.value.args[0]
    return found


def options(wanted: Callable[[argparse.Action], bool]) -> list[tuple[str, str]]:
    """Return the scripts with those of their options that are wanted."""
    pytest.importorskip("triton")
    return [
        (script, action.option_strings[0])
        for script in SCRIPTS
        for action in parser_of(script)._actions
        if action.option_strings and wanted(action)
    ]


def required(script: str, without: str) -> list[str]:
    """Return the outputs that a script must be given."""
    actions = [action for action in parser_of(script)._actions if action.required and action.option_strings]
    return [f"{action.option_strings[0]}=new" for action in actions if action.option_strings[0] != without]


def test_scripts_are_found() -> None:
    assert {"benchmarks.kernels", "benchmarks.real_size", "benchmarks.policy.record"} <= {*SCRIPTS}


@pytest.mark.parametrize(("script", "option"), options(lambda action: action.type not in (None, Path)))
@pytest.mark.parametrize("value", [HUGE, -HUGE, "nan", "many", ""])
def test_an_absurd_number(
    tmp_path: Path, monkeypatch: Any, capsys: Any, script: str, option: str, value: object
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        call(script, *required(script, option), f"{option}={value}")
    assert ended.value.code == 2
    assert f"error: argument {option}: got '{value}', expected" in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("script", "option"), options(lambda action: action.option_strings[0] in OUTPUTS))
def test_an_output_that_cannot_be_written(
    tmp_path: Path, monkeypatch: Any, capsys: Any, script: str, option: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("subprocess.Popen", None)  # no server is started
    (tmp_path / "file").touch()
    small = [f for action in parser_of(script)._actions for f in action.option_strings if f == "--small"]
    with pytest.raises(SystemExit) as ended:
        call(script, *small, *required(script, option), f"{option}={tmp_path}/file/x")
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {tmp_path}/file/x: cannot be written")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
