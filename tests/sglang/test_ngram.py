"""SGLang's own n-gram drafting beside our model as its target: the tokens of `ar`, in fewer forwards."""

from __future__ import annotations

import pytest

from tests.common.eagle3 import answers, cases
from tests.served.setups import on
from tests.sglang.servers import Running

pytestmark = [pytest.mark.engine, on(long=("ngram",))]


def test_tokens_are_those_of_ar_in_fewer_forwards(running: Running) -> None:
    served = running.client.complete_all(cases())
    assert [one.token_ids for one in served] == [one.emitted for one in answers()]
    forwards = [one.raw["spec_verify_ct"] for one in served]
    assert sum(forwards) < sum(len(one.emitted) - 1 for one in answers())
