"""Serve Nemotron-Labs-Diffusion with vLLM and SGLang: three decoding modes, chosen per request."""

__version__ = "0.1.0"
