"""All replacements are in place, and hand on what they do not cover."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest


def test_a_case_that_is_not_covered_goes_to_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton_on_cpu.kernels import interpreted

    launches: list[Any] = []

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda *arguments, **options: launches.append((grid, arguments, options))

    @interpreted.covers(
        "a.kernel", lambda arguments, options: options["EASY"], lambda arguments: (arguments[0],)
    )
    def replacement(*arguments: Any, **options: Any) -> None:
        launches.append("replacement")

    monkeypatch.setitem(interpreted._originals, "a.kernel", Kernel())
    replacement(3, EASY=True)
    replacement(3, EASY=False)
    assert launches == ["replacement", ((3,), (3,), {"EASY": False})]


def test_all_replacements_are_registered() -> None:
    from triton_on_cpu import register
    from triton_on_cpu.kernels import REPLACEMENTS
    from vllm.triton_utils.dispatcher import KernelOverride

    register()
    register()
    for name in REPLACEMENTS:
        module, _, attribute = name.rpartition(".")
        assert isinstance(getattr(importlib.import_module(module), attribute), KernelOverride), name
