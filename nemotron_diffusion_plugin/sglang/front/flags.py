"""The command-line flag with which a server's defaults are set."""

from __future__ import annotations

import argparse
import os
from typing import Any

from nemotron_diffusion_plugin.options import OptionError
from nemotron_diffusion_plugin.sglang.settings import FLAG, VARIABLE, parse_options

_HELP = (
    "Nemotron-Labs-Diffusion: a JSON object with the options of requests that name none, such as "
    '\'{"decoding_mode": "diffusion", "threshold": 0.8}\', "denoise_forwards_per_step", "kernels", "auto_block_sizes" '
    'and "forward_costs". '
    f"The environment variable {VARIABLE} does the same."
)


class _Store(argparse.Action):
    """Checks the object and leaves it where every process of the server finds it."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: Any = None
    ) -> None:
        try:
            parse_options(values)
        except OptionError as error:
            parser.error(str(error))
        os.environ[VARIABLE] = values


def add_flags(result: Any, parser: argparse.ArgumentParser, *arguments: Any, **keywords: Any) -> None:
    """Hook after `ServerArgs.add_cli_args`: add the flag to the parser that SGLang has filled."""
    parser.add_argument(FLAG, action=_Store, default=argparse.SUPPRESS, metavar="JSON", help=_HELP)
