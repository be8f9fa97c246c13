"""What starts vLLM: environment and command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines import foreground
from tests.engines.vllm import launch


def test_what_is_set_already_wins() -> None:
    variables = launch.environment({"OMP_NUM_THREADS": "2", "PYTHONPATH": "mine"}, gpu=False)
    assert variables["OMP_NUM_THREADS"] == "2"
    assert variables["TRITON_INTERPRET"] == "1"
    assert variables["PYTHONPATH"].split(os.pathsep)[-2:] == [str(launch.HERE / "interpreter"), "mine"]


def test_a_gpu_gets_the_engine_as_it_is() -> None:
    variables = launch.environment({}, gpu=True)
    assert "TRITON_INTERPRET" not in variables
    assert str(launch.HERE / "interpreter") not in variables["PYTHONPATH"]
    assert launch.serve_command("model", 1, gpu=True)[-5:] == ["model", "--host", "127.0.0.1", "--port", "1"]


def test_only_a_local_folder_is_served_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[dict[str, str]] = []
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(foreground, "run", lambda command, variables, *_: started.append(variables))
    (tmp_path / "config.json").write_text("{}")
    for model in (str(tmp_path), "nvidia/Nemotron-Labs-Diffusion-8B"):
        launch.main(["serve", model, "--port", str(launch.free_port())])
    assert [variables.get("HF_HUB_OFFLINE") for variables in started] == ["1", None]


def test_the_log_s_tail_leaves_out_what_the_bindings_print(tmp_path: Path) -> None:
    server = launch.Server("model", log=tmp_path / "log")
    server.log.write_text(
        'reason\nnanobind: leaked 4 instances!\n - leaked type "x"\n - ... skipped remainder\n'
    )
    assert server.log_tail() == "reason\n"


def test_options_of_the_user_come_last() -> None:
    command = launch.serve_command("model", 1, ("--dtype", "bfloat16"), gpu=False)
    assert command.index("float32") < command.index("bfloat16")


def test_vllm_finds_triton_and_the_entry_points_in_the_launcher_s_environment() -> None:
    code = (
        "from importlib.metadata import entry_points\n"
        "from vllm.triton_utils import HAS_TRITON\n"
        "names = {e.name for e in entry_points(group='vllm.general_plugins')}\n"
        "assert HAS_TRITON and {'triton_on_cpu', 'nemotron_diffusion'} <= names, (HAS_TRITON, names)\n"
    )
    command = [sys.executable, "-m", "tests.engines.vllm.launch", "run", sys.executable, "-c", code]
    subprocess.run(command, check=True, cwd=launch.CHECKOUT)
