"""Patches of vLLM 0.32."""

SUPPORTED = ">=0.32,<0.33"
