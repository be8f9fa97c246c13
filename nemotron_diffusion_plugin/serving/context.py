"""The longest context that the rotary embedding covers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def check_context_length(rope_parameters: Mapping[str, Any], max_model_len: int, flag: str) -> None:
    """Raise ValueError for a context longer than the rotations an engine tabulates; `flag` is the one that sets it.

    Engines tabulate `original_max_position_embeddings * factor` positions of YaRN and read past the end.
    """
    if rope_parameters.get("rope_type") != "yarn":
        return
    covered = int(rope_parameters["original_max_position_embeddings"] * rope_parameters["factor"])
    if max_model_len > covered:
        raise ValueError(
            f"{flag.lstrip('-').replace('-', '_')}: got {max_model_len}, expected at most {covered}, which is the "
            f"checkpoint's rope_parameters.original_max_position_embeddings times its factor; use {flag}"
        )
