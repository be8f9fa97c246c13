"""What the comparison with a record finds: each kind of change once."""

from __future__ import annotations

import ast
import copy
from typing import Any

import pytest

from tests.contracts import records, source

KNOWN = sorted(path.stem.split("-", 1) for path in records.FOLDER.glob("*.json"))


@pytest.fixture(params=KNOWN, ids="-".join)
def record(request: pytest.FixtureRequest) -> Any:
    engine, version = request.param
    return records.load(engine, version)


def test_a_record_differs_in_nothing_from_itself(record: Any) -> None:
    assert records.missing(record) == records.broken(record, record) == records.changed(record, record) == []
    assert min(len(record[kind]) for kind in ("names", "fields", "overrides", "signatures", "bodies")) > 20


@pytest.mark.parametrize("kind", ["names", "fields"])
def test_a_removed_name(record: Any, kind: str) -> None:
    now, name = copy.deepcopy(record), next(iter(record[kind]))
    now[kind][name] = False
    assert records.broken(record, now) == [f"{kind[:-1]} {name}: not there"]


def test_a_vanished_override(record: Any) -> None:
    """Also one that a class behind the nearest base has lost."""
    now = copy.deepcopy(record)
    name = max(record["overrides"], key=lambda name: len(record["overrides"][name]))
    now["overrides"][name].pop()
    [problem] = records.broken(record, now)
    assert problem.startswith(f"override {name}: was [")


def test_a_renamed_argument_of_a_kernel(record: Any) -> None:
    now = copy.deepcopy(record)
    for arguments in list(now["kernels"].values())[:1]:
        arguments[-1] = "OTHER"
        [problem] = records.broken(record, now)
        assert "OTHER" in problem


def test_another_call_of_ours(record: Any) -> None:
    now, name = copy.deepcopy(record), next(iter(record["calls"]))
    now["calls"][name][0] += ", more=1"
    [problem] = records.broken(record, now)
    assert problem.startswith(f"call {name}: ")


def test_a_changed_body_is_no_error_but_is_listed(record: Any) -> None:
    now, name = copy.deepcopy(record), next(iter(record["bodies"]))
    now["bodies"][name] = "other"
    assert records.broken(record, now) == []
    assert records.changed(record, now) == [name]


def test_the_nearest_record_is_that_of_the_version_below() -> None:
    assert records.nearest("vllm", "0.32.5") == "0.32.0"
    assert records.nearest("vllm", "0.40.0") == max(version for engine, version in KNOWN if engine == "vllm")
    assert records.nearest("vllm", "0.1.0") == "0.32.0"


def test_fields_of_an_expression() -> None:
    def chain(text: str) -> list[str]:
        return source.fields_of(ast.parse(text, mode="eval").body)

    assert chain("vllm_config.model_config.max_model_len") == ["vllm_config", "model_config", "max_model_len"]
    assert chain("self.vllm_config.model_config") == ["vllm_config", "model_config"]
    assert chain("self.x") == ["self", "x"]
    assert chain("f(x).y") == chain("x") == []
