"""The same prompts in the same modes give the same tokens and the same forward counts on vLLM and on SGLang.

The engines cannot share an environment, so vLLM's server runs with the Python of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.common.cases import MODES, mixed_cases
from tests.common.checkpoints import TRAINED
from tests.engines.install import detect_device, install
from tests.engines.recipe import load_recipe
from tests.engines.sglang import launch as sglang_launch
from tests.engines.vllm import launch as vllm_launch
from tests.served.metrics import Metrics
from tests.served.running import forwards_between
from tests.served.test_tokens import VOCABULARY
from tests.served.test_tokens import agreed_cases as cases
from tests.sglang.client import Client as SglangClient
from tests.vllm.client import Client as VllmClient

pytestmark = [pytest.mark.engine, pytest.mark.long]
OWN = ("SGLANG_", "PYTHONPATH", "OMP_NUM_THREADS", "TRITON_")


class VllmServer(vllm_launch.Server):
    """vLLM's server in vLLM's environment, started from SGLang's."""

    python: str

    def command(self) -> list[str]:
        return [self.python, *super().command()[1:]]

    def environment(self) -> dict[str, str]:
        """Without what only SGLang needs."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(OWN)}
        return vllm_launch.environment(clean, offline=True)


Observed = list[tuple[list[int], str | None, dict[str, int]]]


def observe(client: VllmClient | SglangClient) -> tuple[Observed, list[list[int]]]:
    """Tokens, reason and forwards of each case alone; tokens of mixed cases."""
    alone: Observed = []
    settled: Callable[[], Metrics] = client.settled
    for case in cases():
        mode = case.options["decoding_mode"]
        before = settled()
        answer = client.complete(case)
        forwards = forwards_between(before, settled(), mode)
        alone.append((answer.token_ids, answer.finish_reason, forwards))
    mixed = client.complete_all(mixed_cases(VOCABULARY, seed=30, most_tokens=60))
    return alone, [answer.token_ids for answer in mixed]


def test_both_engines_agree(tmp_path: Path) -> None:
    VllmServer.python = str(install(load_recipe("vllm"), detect_device()))
    options = ("--max-model-len", "512", "--no-async-scheduling")
    with VllmServer(TRAINED, *options, log=tmp_path / "vllm.log") as vllm:
        on_vllm = observe(VllmClient(vllm.url, str(TRAINED)))
    options = ("--context-length", "512")
    with sglang_launch.Server(TRAINED, *options, log=tmp_path / "sglang.log") as sglang:
        on_sglang = observe(SglangClient(sglang.url, str(TRAINED)))
    for case, one, other in zip(cases(), on_vllm[0], on_sglang[0], strict=True):
        assert one == other, case
    assert on_vllm[1] == on_sglang[1]
    assert {case.options["decoding_mode"] for case in cases()} == set(MODES)
