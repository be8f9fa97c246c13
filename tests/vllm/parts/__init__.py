"""Tests of single modules of the vLLM plugin, without an engine."""
