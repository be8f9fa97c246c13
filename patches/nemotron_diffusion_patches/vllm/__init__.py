"""Patches of vLLM."""

SUPPORTED = ">=0.32,<0.34"
"""The versions of vLLM that the patches and the plugin are written for; `pyproject.toml` asks for the same."""
