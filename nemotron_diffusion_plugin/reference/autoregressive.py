"""AR decoding (docs/model.md, 3.1)."""

from nemotron_diffusion_plugin.reference.request import Request


def decode(request: Request) -> None:
    """One causal forward for each token."""
    while not request.finished:
        request.causal_step()
