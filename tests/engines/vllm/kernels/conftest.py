"""Every test here compares with interpreted kernels, so it needs the interpreter."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.engines.vllm.kernels.support import Batch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = find_spec("triton_on_cpu") is None
    for item in items:
        if __package__ and item.module.__name__.startswith(__package__):  # type: ignore[attr-defined]
            item.add_marker(pytest.mark.engine)
            if missing:
                item.add_marker(pytest.mark.skip(reason="needs the interpreter: make test-engine"))


@pytest.fixture(autouse=True)
def interpreter() -> None:
    from triton_on_cpu.masks import accept_integer_masks

    accept_integer_masks()


@pytest.fixture(params=range(3))
def batch(request: pytest.FixtureRequest) -> Batch:
    return Batch(request.param)
