"""Sampling parameters beside block diffusion."""

from __future__ import annotations

import pytest

from nemotron_diffusion_plugin.options import DecodingMode, DecodingOptions, OptionError
from nemotron_diffusion_plugin.serving.refusals import refuse_in_diffusion

OPTIONS = DecodingOptions(decoding_mode=DecodingMode.DIFFUSION)


def test_neutral_values_pass() -> None:
    refuse_in_diffusion({"top_p": (1.0, 1.0), "top_k": (0, 0), "regex": (None, None)}, OPTIONS)


def test_the_first_that_is_not_neutral_is_named() -> None:
    active: dict[str, tuple[object, object]] = {"top_p": (1.0, 1.0), "min_p": (0.1, 0.0), "top_k": (5, 0)}
    with pytest.raises(OptionError) as refused:
        refuse_in_diffusion(active, OPTIONS)
    assert str(refused.value) == (
        "field 'min_p': got 0.1, expected 0.0 with decoding_mode 'diffusion'; "
        "use decoding_mode 'auto', 'ar' or 'self_speculation'"
    )


def test_a_constraint_is_not_shown() -> None:
    schema = {"json": "x" * 10_000}
    with pytest.raises(OptionError, match=r"^field 'schema': got a constraint, expected None with"):
        refuse_in_diffusion({"schema": (schema, None)}, OPTIONS, constraints={"schema"})
