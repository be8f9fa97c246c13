"""A request that names no option gets the server's, and may still override each of them."""

from __future__ import annotations

import random

import pytest

from tests.common.cases import MODES, Case, prompt
from tests.served.running import Running
from tests.served.setups import SGLANG, on

pytestmark = pytest.mark.engine


@on("trained")
def test_metrics_carry_the_name_of_the_model(running: Running) -> None:
    """The one that the engine's own metrics carry."""
    [model] = running.client.openai.models.list().data
    page = running.client.http.get(running.client.metrics_path).text
    lines = [line for line in page.splitlines() if line.startswith("nemotron_diffusion:")]
    assert lines
    assert not [line for line in lines if f'model_name="{model.id}"' not in line]


@on("pool", *(["paged"] if SGLANG else []), long=(*(["plain"] if SGLANG else []), "small-pool"))
def test_server_defaults(running: Running) -> None:
    """SGLang's got them by flag on one server, by environment on the other one."""
    tokens = prompt(random.Random(6), 20, running.reference.config.vocab_size)
    default = "diffusion" if "pool" in running.name else "ar"
    assert running.reference.defaults.block_size == 16
    for options in ({}, {"threshold": 0.2}, {"block_size": 32}, *({"decoding_mode": mode} for mode in MODES)):
        case = Case(tokens, 50, options, ignore_eos=True)
        mode = running.reference.mode(case)
        assert mode == options.get("decoding_mode", default)
        before = running.client.settled()
        running.check_answers([case], [running.client.complete(case)])
        running.check_forwards([case], before, running.client.settled(), [mode])
