"""A server's settings and the options of a request over them."""

from __future__ import annotations

from typing import Any

import pytest

from nemotron_diffusion_plugin.costs import ForwardCosts
from nemotron_diffusion_plugin.options import OPTION_NAMES, DecodingMode, DecodingOptions, OptionError
from nemotron_diffusion_plugin.settings import SETTING_NAMES, ServerSettings


@pytest.mark.parametrize("raw", [None, {}, {"another_plugin": 1}])
def test_defaults(raw: dict[str, object] | None) -> None:
    settings = ServerSettings.read(32, raw)
    assert settings == ServerSettings(32, DecodingOptions(block_size=32), auto_blocks=(8, 16, 32))
    assert settings.defaults.decoding_mode is DecodingMode.AUTO
    assert settings.denoise_forwards == 3
    assert settings.kernels == "torch"


def test_server_options_are_a_requests_defaults() -> None:
    settings = ServerSettings.read(
        16, {"decoding_mode": "diffusion", "threshold": 0.5, "denoise_forwards_per_step": 5, "other": []}
    )
    assert settings.denoise_forwards == 5
    options = settings.options({"block_size": 8})
    assert (options.decoding_mode, options.threshold, options.block_size) == (DecodingMode.DIFFUSION, 0.5, 8)
    for empty in (None, {}):
        assert settings.options(empty) == settings.defaults


def test_every_setting_can_be_given() -> None:
    values = ["ar", 0.5, 4, 8, False, "fixed", 2, True, 7, "triton", 2.5, [24, 4, 4], {"causal": [[1, 2.5]]}]
    settings = ServerSettings.read(32, dict(zip(SETTING_NAMES, values, strict=True)))
    given = [getattr(settings.defaults, name) for name in OPTION_NAMES]
    given += [settings.denoise_forwards, settings.kernels, settings.synthetic_acceptance]
    assert given == values[:-2]
    assert settings.auto_blocks == (4, 24)
    assert settings.forward_costs == ForwardCosts(((1, 2.5),), ((1, 2.5),))
    assert settings.cost_source == "table"


@pytest.mark.parametrize("raw", [{}, {"forward_costs": None}, {"forward_costs": "measured"}])
def test_costs_are_measured_unless_something_else_is_asked_for(raw: dict[str, Any]) -> None:
    settings = ServerSettings.read(32, raw)
    assert (settings.cost_source, settings.forward_costs) == ("measured", None)
    arithmetic = ServerSettings.read(32, {"forward_costs": "arithmetic"})
    assert (arithmetic.cost_source, arithmetic.forward_costs) == ("arithmetic", None)


def test_acceptance_is_made_up_only_without_weights() -> None:
    settings = ServerSettings.read(32, {"synthetic_acceptance_length": 6.82})
    settings.check_load_format("dummy")
    with pytest.raises(OptionError, match=r"got 6.82 with load format 'auto', expected --load-format dummy"):
        settings.check_load_format("auto")
    ServerSettings.read(32, None).check_load_format("auto")


@pytest.mark.parametrize(
    ("block_size", "blocks"), [(1, ()), (2, (2,)), (5, (2, 5)), (16, (4, 8, 16)), (32, (8, 16, 32))]
)
def test_auto_halves_the_models_block_twice(block_size: int, blocks: tuple[int, ...]) -> None:
    assert ServerSettings.read(block_size, None).auto_blocks == blocks


def test_a_request_cannot_set_the_servers_own() -> None:
    settings = ServerSettings.read(32, None)
    with pytest.raises(OptionError, match="'denoise_forwards_per_step': unknown option"):
        settings.options({"denoise_forwards_per_step": 2})


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"threshold": 2}, r"'threshold': got 2, expected a number in \(0, 1\]"),
        ({"block_size": 33}, "'block_size': got 33, expected an integer in 1 to 32"),
        ({"decoding_mode": "x"}, "'decoding_mode': got 'x'"),
        ({"denoise_forwards_per_step": 0}, "'denoise_forwards_per_step': got 0, expected an integer >= 1"),
        ({"denoise_forwards_per_step": True}, "got True"),
        ({"denoise_forwards_per_step": 1.5}, "got 1.5"),
        ({"kernels": "cuda"}, "field 'kernels': got 'cuda', expected one of torch, triton"),
        ({"kernels": ["triton"]}, r"got \['triton'\]"),
        (
            {"synthetic_acceptance_length": 33},
            "'synthetic_acceptance_length': got 33, expected a number from 1 to 32",
        ),
        ({"synthetic_acceptance_length": 0.5}, "got 0.5"),
        ({"synthetic_acceptance_length": True}, "got True"),
        *[
            (
                {"auto_block_sizes": value},
                r"'auto_block_sizes': got .*, expected a list of 1 to 8 integers in 2 to 32, the model's block size",
            )
            for value in ([], [1], [33], [8.0], [True], 8, "8", {"8": 8}, list(range(2, 11)))
        ],
        ({"forward_costs": {}}, "'forward_costs.causal': got None"),
        (
            {"forward_costs": "/nowhere/costs.json"},
            "'forward_costs': got '/nowhere/costs.json', expected a file",
        ),
    ],
)
def test_bad_settings(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        ServerSettings.read(32, raw)
