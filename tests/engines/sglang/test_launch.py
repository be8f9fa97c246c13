"""What starts SGLang: environment, command line, and a real server of a small Llama."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines import foreground, starts
from tests.engines.sglang import launch

STANDIN = str(launch.HERE / "standin")


def test_what_is_set_already_wins() -> None:
    variables = launch.environment({"OMP_NUM_THREADS": "2", "PYTHONPATH": "mine"}, gpu=False)
    assert variables["OMP_NUM_THREADS"] == "2"
    assert variables["SGLANG_USE_CPU_ENGINE"] == "1"
    assert variables["PYTHONPATH"].split(os.pathsep)[-2:] == [STANDIN, "mine"]


def test_a_gpu_gets_the_engine_as_it_is() -> None:
    variables = launch.environment({}, gpu=True)
    assert "SGLANG_USE_CPU_ENGINE" not in variables
    assert STANDIN not in variables["PYTHONPATH"].split(os.pathsep)
    command = launch.serve_command("model", 1, gpu=True)
    assert "--attention-backend" not in command
    assert "--enable-metrics" in command


def test_only_a_local_folder_is_served_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[dict[str, str]] = []
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(foreground, "run", lambda command, variables, *_: started.append(variables))
    (tmp_path / "config.json").write_text("{}")
    for model in (str(tmp_path), "nvidia/Nemotron-Labs-Diffusion-8B"):
        launch.main(["serve", model, "--port", str(launch.free_port())])
    assert [variables.get("HF_HUB_OFFLINE") for variables in started] == ["1", None]


def test_options_of_the_user_come_last() -> None:
    command = launch.serve_command("model", 1, ("--dtype", "bfloat16"), gpu=False)
    assert command.index("float32") < command.index("bfloat16")


def test_temporary_files_go_with_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = "import tempfile; raise SystemExit(tempfile.mkstemp(prefix='left-over')[1])"
    monkeypatch.setattr(launch, "serve_command", lambda *_: [sys.executable, "-c", program])
    monkeypatch.delenv(starts.VARIABLE, raising=False)  # no engine starts here
    log = tmp_path / "log"
    with pytest.raises(launch.ServerError, match="left-over"), launch.Server("model", log=log):
        pass
    left_over = Path(log.read_text().strip())
    assert left_over.name.startswith("left-over")
    assert not left_over.parent.exists()


def test_the_log_s_tail_leaves_out_models_that_do_not_load(tmp_path: Path) -> None:
    server = launch.Server("model", log=tmp_path / "log")
    noise = (
        "[2026-01-01 10:00:00] Ignore import error when loading sglang.srt.models.grok: no such operator\n"
    )
    server.log.write_text(f"reason\n{noise}")
    assert server.log_tail() == "reason\n"


@pytest.mark.engine
@pytest.mark.skipif(launch.has_gpu(), reason="a GPU gets no stand-in")
def test_sglang_finds_in_the_launcher_s_environment_what_it_imports() -> None:
    code = (
        "from importlib.metadata import entry_points\n"
        "import torchvision.transforms\n"
        "import sglang.srt.mem_cache.allocation\n"
        "import sglang.kernels.ops.kvcache.cache_move\n"
        "from sglang.kernels.ops.speculative import cache_locs, eagle, multi_layer_eagle\n"
        "from sglang.kernels.ops.speculative import reconstruct_tree, spec_tree\n"
        "names = {e.name for e in entry_points(group='sglang.srt.plugins')}\n"
        "assert 'sglang_on_cpu' in names, names\n"
    )
    command = [sys.executable, "-m", "tests.engines.sglang.launch", "run", sys.executable, "-c", code]
    subprocess.run(command, check=True, cwd=launch.CHECKOUT)


def test_another_sitecustomize_runs_too(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('the other one')\n")
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([STANDIN, str(tmp_path)])}
    answer = subprocess.run(
        [sys.executable, "-c", ""], check=True, capture_output=True, text=True, env=variables
    )
    assert answer.stdout == "the other one\n"


def test_the_doctor_is_right_in_this_environment_without_the_launcher(tmp_path: Path) -> None:
    """As somebody calls it who has set the environment up: without the launcher's variables."""
    ours = ("PYTHONPATH", *launch.CPU_VARIABLES, *launch.ALWAYS)
    variables = {name: value for name, value in os.environ.items() if name not in ours}
    doctor = Path(sys.executable).parent / "nemotron-diffusion"
    result = subprocess.run(
        [str(doctor), "doctor"], capture_output=True, text=True, check=False, cwd=tmp_path, env=variables
    )
    assert result.returncode == 0, result.stdout
    assert "speculative algorithm" in result.stdout
    assert "WRONG" not in result.stdout
