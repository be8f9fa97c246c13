"""What every plot needs: matplotlib, which only the extra `bench` brings."""

import importlib.util


def require_matplotlib(wanted_by: str) -> None:
    """Raise `ValueError` with what to install where matplotlib is missing; `wanted_by` is what needs it."""
    try:
        found = importlib.util.find_spec("matplotlib") is not None
    except ValueError:  # in sys.modules without a spec
        found = False
    if not found:
        raise ValueError(
            f"{wanted_by}: matplotlib is not installed, pip install 'nemotron-diffusion-plugin[bench]'"
        )
