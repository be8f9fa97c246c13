"""`make demo` without an engine: what is refused, how it ends, and what becomes of its log."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.engines import demo, starts
from tests.engines.test_server import StandIn


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv(starts.VARIABLE, raising=False)  # no engine starts here
    return tmp_path


def main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["demo", *arguments])
    return demo.main()


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, SystemExit])
def test_the_log_goes_when_nothing_failed(logs: Path, error: type[BaseException] | None) -> None:
    def ask() -> None:
        with demo.log_of_a_failure() as log, demo.log_of_a_failure() as another:
            assert log != another
            if error is not None:
                raise error

    if error is None:
        ask()
    else:
        with pytest.raises(error):
            ask()
    assert list(logs.iterdir()) == []


@pytest.mark.parametrize("arguments", [("--model", "/nope"), ("--model", "a/b", "--max-tokens", "0")])
def test_bad_input_is_refused_before_anything_starts(
    logs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
) -> None:
    monkeypatch.setattr(demo, "server_class", None)
    with pytest.raises(SystemExit) as ended:
        main(monkeypatch, *arguments)
    assert ended.value.code == 2
    assert f"got {arguments[-1]!r}".replace("'0'", "0") in capsys.readouterr().err.splitlines()[-1]
    assert list(logs.iterdir()) == []


def test_a_server_that_does_not_start_is_the_last_line_and_its_log_stays(
    logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Dying(StandIn):
        program = "import atexit; atexit.register(print, 'noise'); raise ValueError('no such weights')"

    monkeypatch.setattr(demo, "server_class", lambda engine: Dying)
    assert main(monkeypatch, "--model", "a/b") == 1
    [log] = logs.iterdir()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith(f" s: ValueError: no such weights; the whole log is {log}")


def test_a_server_that_does_not_answer_as_one_is_one_line(
    logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "server_class", lambda engine: StandIn)
    with pytest.raises(SystemExit) as ended:
        main(monkeypatch, "--model", "a/b")
    assert ended.value.code == 2
    assert "expected a list of models" in capsys.readouterr().err.splitlines()[-1]
    assert len(list(logs.iterdir())) == 1
