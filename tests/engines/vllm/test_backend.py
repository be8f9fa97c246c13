"""The stand-in backend: vLLM and Triton see it, and it says what is missing when something wants to compile."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(find_spec("triton_on_cpu") is None, reason="needs the interpreter: make test-engine"),
]


def test_triton_takes_the_cpu_as_its_only_device() -> None:
    import triton

    driver = triton.runtime.driver.active
    assert driver.get_current_target().backend == "cpu"
    assert str(driver.get_active_torch_device()) == "cpu"
    assert len(driver.get_benchmarker()(lambda: None, quantiles=[0.2, 0.8])) == 2


def test_compiling_names_the_missing_variable() -> None:
    from triton.backends.compiler import GPUTarget
    from triton_on_cpu.backend.compiler import CPUBackend

    target = GPUTarget("cpu", 0, 1)
    assert CPUBackend.supports_target(target)
    assert not CPUBackend.supports_target(GPUTarget("cuda", 90, 32))
    for attempt in (lambda b: b.parse_options({}), lambda b: b.add_stages({}, object(), object())):
        with pytest.raises(RuntimeError, match="set TRITON_INTERPRET=1"):
            attempt(CPUBackend(target))


def test_nothing_is_registered_without_the_interpreter() -> None:
    code = "import sys, triton_on_cpu; triton_on_cpu.register(); assert 'torch' not in sys.modules"
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", code], check=True, env=variables)


def test_integer_masks_are_converted_once() -> None:
    from triton.runtime.interpreter import InterpreterBuilder
    from triton_on_cpu.masks import accept_integer_masks

    accept_integer_masks()
    load = InterpreterBuilder.create_masked_load
    accept_integer_masks()
    assert InterpreterBuilder.create_masked_load is load
