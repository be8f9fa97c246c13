"""A request that names no option gets the server's, and may still override each of them."""

from __future__ import annotations

import random

import pytest

from tests.common.cases import MODES, Case, prompt
from tests.served.running import Running
from tests.served.setups import SGLANG, on

pytestmark = pytest.mark.engine


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
