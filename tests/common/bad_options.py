"""Decoding options that are refused, and what the answer must name: field, value and what is allowed."""

from __future__ import annotations

from typing import Any

OPTIONS: list[tuple[dict[str, Any], list[str]]] = [
    ({"decoding_mode": "turbo"}, ["decoding_mode", "turbo", "'ar', 'diffusion', 'self_speculation'"]),
    ({"decoding_mode": "AR"}, ["decoding_mode", "'AR'", "'ar'"]),
    ({"decoding_mode": 1}, ["decoding_mode", "got 1", "'ar'"]),
    ({"threshold": 0}, ["threshold", "got 0", "(0, 1]"]),
    ({"threshold": -0.5}, ["threshold", "-0.5", "(0, 1]"]),
    ({"threshold": 1.5}, ["threshold", "1.5", "(0, 1]"]),
    ({"threshold": "0.9"}, ["threshold", "'0.9'", "(0, 1]"]),
    ({"denoising_steps": 0}, ["denoising_steps", "got 0", ">= 1"]),
    ({"denoising_steps": -3}, ["denoising_steps", "-3", ">= 1"]),
    ({"denoising_steps": 2.5}, ["denoising_steps", "2.5", "integer"]),
    ({"block_size": 0}, ["block_size", "got 0", "1 to 32"]),
    ({"block_size": 33}, ["block_size", "33", "1 to 32"]),
    ({"block_size": "8"}, ["block_size", "'8'", "1 to 32"]),
    ({"block_size": [8]}, ["block_size", "[8]", "1 to 32"]),
    ({"draft_lora": "yes"}, ["draft_lora", "'yes'", "true or false"]),
    ({"draft_lora": 2}, ["draft_lora", "got 2", "true or false"]),
    ({"commit_rule": "best"}, ["commit_rule", "'best'", "'threshold'", "'fixed'"]),
    ({"tokens_per_step": 4}, ["tokens_per_step", "got 4", "commit_rule 'fixed'"]),
    ({"treshold": 0.9}, ["treshold", "did you mean 'threshold'", "decoding_mode"]),
    ({"denoise": 1}, ["denoise", "unknown option", "block_size"]),
    ({"block_size": {"value": 8}}, ["block_size", "valid"]),
]
