"""The compiler half of the backend. Every attempt to compile is an error that names the missing variable."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NoReturn

from triton.backends.compiler import BaseBackend, GPUTarget


class CPUBackend(BaseBackend):
    """Claims the target `cpu` and refuses to compile for it."""

    @staticmethod
    def supports_target(target: GPUTarget) -> bool:
        return bool(target.backend == "cpu")

    def hash(self) -> str:
        return "triton-on-cpu"

    def parse_options(self, options: dict[str, Any]) -> NoReturn:
        self._refuse()

    def add_stages(self, stages: dict[str, Any], options: object, language: object) -> NoReturn:
        self._refuse()

    def load_dialects(self, context: object) -> None:
        return None

    def get_module_map(self) -> dict[str, ModuleType]:
        return {}

    @staticmethod
    def _refuse() -> NoReturn:
        raise RuntimeError(
            "a Triton kernel was about to be compiled for the CPU: set TRITON_INTERPRET=1 "
            "before Triton is imported, or take triton_on_cpu off PYTHONPATH"
        )
