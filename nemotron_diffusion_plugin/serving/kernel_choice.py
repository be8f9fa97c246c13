"""Whether a server can compute with what its setting `kernels` names; imports neither torch nor Triton."""

from nemotron_diffusion_kernels.backends import has_triton, is_interpreted
from nemotron_diffusion_plugin.options import OptionError
from nemotron_diffusion_plugin.settings import KERNELS, TRITON


def check_kernels(kernels: str, device: str) -> None:
    """Raise `OptionError` when a server on this type of device cannot use `kernels`, one of `KERNELS`."""
    if kernels not in KERNELS:
        raise OptionError(f"field 'kernels': got {kernels!r}, expected one of {', '.join(KERNELS)}")
    if kernels != TRITON:
        return
    if not has_triton():
        raise OptionError(
            "field 'kernels': got 'triton', but Triton is not installed; install it or use 'torch'"
        )
    if device != "cuda" and not is_interpreted():
        raise OptionError(
            f"field 'kernels': got 'triton' on {device}, expected a CUDA device; use 'torch', or set "
            "TRITON_INTERPRET=1 to run the kernels in Triton's interpreter"
        )
