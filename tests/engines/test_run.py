"""`python -m tests.run`: which step runs what, under which Python, and that a failure is not lost."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests import run
from tests.engines.recipe import ENGINES, Recipe, SetupError


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_s_tests_run_under_its_own_python_only(engine: str) -> None:
    chosen = set()
    for kind, folder in (("engine", "tests/served"), ("parts", f"tests/engines/{engine}")):
        ((python, *pytest_command),) = run.commands(f"{kind}-{engine}", "the/python")
        assert python == "the/python"
        assert folder in pytest_command
        assert not any(other in word for word in pytest_command for other in ENGINES if other != engine)
        chosen |= {word for word in pytest_command if word.startswith("tests/")}
    assert chosen == set(run.engine_folders(engine)), "each folder is in one of the two steps"
    assert f"--ignore=tests/engines/{engine}" in run.commands("unit", sys.executable)[0]


def test_an_engine_s_variables_go_to_its_tests_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("vllm", "sglang"):
        monkeypatch.setattr(f"tests.engines.{module}.launch.has_gpu", lambda: False)
    monkeypatch.delenv("SGLANG_USE_CPU_ENGINE", raising=False)
    monkeypatch.delenv("VLLM_USE_V2_MODEL_RUNNER", raising=False)
    assert "SGLANG_USE_CPU_ENGINE" in run.variables("engine-sglang")
    assert "VLLM_USE_V2_MODEL_RUNNER" not in run.variables("engine-sglang")
    assert "VLLM_USE_V2_MODEL_RUNNER" in run.variables("engine-vllm")
    assert "SGLANG_USE_CPU_ENGINE" not in run.variables("unit")


def test_an_engine_that_cannot_be_set_up_is_a_failed_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def install(recipe: Recipe, device: str) -> Path:
        raise SetupError("no network")

    monkeypatch.setattr(run, "install", install)
    monkeypatch.setattr(run, "commands", lambda step, python, long: [[sys.executable, "-c", ""]])
    assert run.main(["unit", "engine-sglang"]) == 1
    output = capsys.readouterr()
    assert "no network" in output.err
    assert [line.split()[-1] for line in output.out.splitlines()[-2:]] == ["ok", "FAILED"]


def test_the_long_lane_runs_everything_in_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEMOTRON_DIFFUSION_FUZZ", "7")
    monkeypatch.delenv("NEMOTRON_DIFFUSION_DRAWS", raising=False)
    for step in ("unit", "engine-vllm", "engine-sglang", "parts-vllm", "parts-sglang"):
        [short], [long] = run.commands(step, "python"), run.commands(step, "python", long=True)
        assert [word for word in long if word not in short] == [""]
        variables = run.variables(step, long=True)
        assert variables["NEMOTRON_DIFFUSION_DRAWS"] == run.FULL_SIZES["NEMOTRON_DIFFUSION_DRAWS"]
        assert variables["NEMOTRON_DIFFUSION_FUZZ"] == "7"
        assert "NEMOTRON_DIFFUSION_DRAWS" not in run.variables(step)


def test_engine_starts_are_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "from tests.engines import starts; starts.add('a server', 2.0); starts.add_forked()"
    monkeypatch.setattr(run, "install", lambda recipe, device: sys.executable)
    monkeypatch.setattr(run, "commands", lambda step, python, long: [[sys.executable, "-c", code]])
    assert run.main(["engine-vllm"]) == 0
    assert capsys.readouterr().out.endswith("1 engine starts and 1 in forked processes\n")


def test_two_engines_run_side_by_side_and_say_who_speaks(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Each waits for the file that the other writes; both outputs arrive whole, and a failure is not lost."""
    code = (
        "import pathlib, sys, time\n"
        "mine, other, status = sys.argv[1:]\n"
        "pathlib.Path(mine).touch()\n"
        "while not pathlib.Path(other).exists(): time.sleep(0.01)\n"
        "print('met'); print('done', file=sys.stderr); sys.exit(int(status))"
    )
    met = {"engine-vllm": ("a", "b", "0"), "engine-sglang": ("b", "a", "3")}

    def commands(step: str, python: str | Path, long: bool) -> list[list[str]]:
        mine, other, status = met[step]
        return [[sys.executable, "-c", code, str(tmp_path / mine), str(tmp_path / other), status]]

    monkeypatch.setattr(run, "install", lambda recipe, device: sys.executable)
    monkeypatch.setattr(run, "commands", commands)
    assert run.main(["engine-vllm", "engine-sglang"]) == 1
    lines = capfd.readouterr().out.splitlines()
    for engine in ENGINES:
        assert {f"{engine}: met", f"{engine}: done"} <= set(lines)
    assert [line.split()[-1] for line in lines[-2:]] == ["ok", "FAILED"]


def test_the_summary_names_what_failed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    named = ["FAILED tests/test_a.py::test_b - assert 1 == 2", "ERROR tests/test_c.py"]
    code = f"print('\\n'.join(['begun', *{named!r}])); raise SystemExit(1)"
    monkeypatch.setattr(run, "install", lambda recipe, device: sys.executable)
    monkeypatch.setattr(run, "commands", lambda step, python, long: [[sys.executable, "-c", code]])
    for steps in (["engine-vllm"], ["engine-vllm", "unit"]):
        assert run.main(steps) == 1
        summary = capfd.readouterr().out.split("== summary")[1].splitlines()
        assert [line.strip() for line in summary if line.startswith("    ")] == named * len(steps)


def test_another_version_has_a_short_run_and_its_suites_in_the_long_lane(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[tuple[str, bool]] = []
    asked: list[str | None] = []
    monkeypatch.setattr(run, "set_up_engines", lambda: None)

    def note(step: str, prefix: str = "", long: bool = False) -> run.Result:
        ran.append((step, long))
        return run.Result(step, 0.0, True)

    monkeypatch.setattr(run, "run", note)
    for arguments, version in (([], "parity-vllm-0.33"), (["--all"], "engine-vllm-0.33")):
        ran.clear()
        assert run.main(arguments) == 0
        assert {"unit", "engine-vllm", "parts-sglang", version} <= {step for step, _ in ran}
        assert all(long is bool(arguments) for _, long in ran)
    monkeypatch.undo()

    def install(recipe: Recipe, device: str) -> Path:
        asked.append(recipe.version)
        return Path(sys.executable)

    monkeypatch.setattr(run, "install", install)
    assert run.set_up("vllm", run.version_of("parity-vllm-0.33")) == Path(sys.executable)
    run.set_up("vllm", run.version_of("parts-vllm"))
    assert asked == ["0.33", None]
    tokens, contracts = run.commands("parity-vllm-0.33", "python")
    assert "tests/served/test_tokens.py" in tokens
    assert "tests/vllm/parts/test_contracts.py" in contracts


def test_an_unknown_step_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["units"]) == 2
    assert "no such step: units; there are lint, types, unit" in capsys.readouterr().err
