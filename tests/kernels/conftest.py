"""Kernel tests run compiled where there is a GPU and in Triton's interpreter elsewhere (see tests/conftest.py)."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from triton.runtime import interpreter


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session", autouse=True)
def quick_interpreter() -> Iterator[None]:
    """Let a function that a kernel calls, such as `tl.max`, prepare Triton's language once and not at every call.

    The kernel itself has prepared it; Triton's interpreter repeats that in every call, half of a test's time.
    """
    prepare, prepared = interpreter._patch_lang, set()

    def call(function: Any, *arguments: Any, **keywords: Any) -> Any:
        module = function.fn.__module__
        if module not in prepared:
            prepared.add(module)
            prepare(function.fn)
        return function.rewrite()(*arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter.InterpretedFunction, "__call__", call)
        yield
