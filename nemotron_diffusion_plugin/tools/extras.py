"""The optional packages that parts of this one need, and how they are installed."""

from importlib.util import find_spec

EXTRAS = {
    "torch": "torch",
    "vllm": "vllm",
    "sglang": "sglang",
    "httpx": "bench",
    "matplotlib": "bench",
    "openai": "bench",
}
"""The extra of this package that brings a module."""


def how_to_install(extra: str = "") -> str:
    """Return the command that installs this package with an extra. No package index has it yet, but a checkout."""
    target = f"'.[{extra}]'" if extra else "."
    return f"pip install {target} in a checkout of nemotron-diffusion-plugin"


def missing(module: str) -> str:
    """Return what to say where a module is not installed."""
    engines = ", or one of the extras vllm and sglang, which bring it too" if module == "torch" else ""
    return f"{module} is not installed; {how_to_install(EXTRAS.get(module, ''))}{engines}"


def is_installed(module: str) -> bool:
    """Return whether a module could be imported; it is not."""
    try:
        return find_spec(module) is not None
    except ValueError:  # in sys.modules without a spec
        return False


def require(*modules: str) -> None:
    """Raise `ValueError` with what to install where one of the modules is missing."""
    for module in modules:
        if not is_installed(module):
            raise ValueError(missing(module))
