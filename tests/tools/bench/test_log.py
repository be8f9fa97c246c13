"""The reason is found in what the engines print when they do not start."""

import pytest

from nemotron_diffusion_plugin.tools.bench.log import reason

VLLM_CORE = """\
(APIServer pid=1) WARNING 11-30 13:17:30 [utils.py:255] This can cause errors like `OSError: [Errno 24] Too many files`
(EngineCore pid=2) ERROR 11-30 13:17:58 [core.py:1510] EngineCore failed to start.
(EngineCore pid=2) ERROR 11-30 13:17:58 [core.py:1510] Traceback (most recent call last):
(EngineCore pid=2) ERROR 11-30 13:17:58 [core.py:1510]   File "/some/weights.py", line 59, in load
(EngineCore pid=2) ERROR 11-30 13:17:58 [core.py:1510]     raise ValueError(
(EngineCore pid=2) ERROR 11-30 13:17:58 [core.py:1510] safetensors.SafetensorError: incomplete metadata
(EngineCore pid=2) ERROR 11-30 13:17:58 [core.py:1510]
(EngineCore pid=2) ERROR 11-30 13:17:58 [core.py:1] The above exception was the direct cause of the following exception:
(EngineCore pid=2) ERROR 11-30 13:17:58 [core.py:1510]
(EngineCore pid=2) ERROR 11-30 13:17:59 [core.py:1510] Traceback (most recent call last):
(EngineCore pid=2) ERROR 11-30 13:17:59 [core.py:1510]   File "/some/core.py", line 1482, in run_engine_core
(EngineCore pid=2) ERROR 11-30 13:17:59 [core.py:1510] some.errors.CheckpointError: model.safetensors: truncated
Process EngineCore:
Traceback (most recent call last):
  File "/some/process.py", line 314, in _bootstrap
KeyError: 'another'
(APIServer pid=1) Traceback (most recent call last):
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
nanobind: leaked 4 instances!
"""
VLLM_CONFIG = """\
Traceback (most recent call last):
  File "/some/arg_utils.py", line 1955, in create_model_config
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, field 'mask_token_id': got -1, expected an integer >= 0 [type=value_error, input_value=A((), {})]
    For further information visit https://errors.pydantic.dev/2.14/v/value_error
"""
SGLANG = """\
[2026-11-30 13:23:18] ERROR:    something that is not the end
[2026-11-30 13:24:39] Scheduler hit an exception: Traceback (most recent call last):
  File "/some/scheduler.py", line 1, in run
AssertionError: the backend requires a GPU.

[2026-11-30 13:24:39] Received sigquit from a child process. It usually means the child failed.
"""


@pytest.mark.parametrize(
    ("log", "why"),
    [
        (VLLM_CORE, "CheckpointError: model.safetensors: truncated"),
        (VLLM_CONFIG, "field 'mask_token_id': got -1, expected an integer >= 0"),
        (SGLANG, "AssertionError: the backend requires a GPU"),
        (
            "usage: serve [-h]\nmain.py serve: error: argument --dtype: invalid choice\nnoise",
            "argument --dtype: invalid choice",
        ),
        ("Traceback (most recent call last):\nKeyboardInterrupt\n", "KeyboardInterrupt"),
        ("all is well\nError: not raised\n", ""),
        ("", ""),
    ],
)
def test_the_reason(log: str, why: str) -> None:
    assert reason(log.splitlines(keepends=True)) == why
