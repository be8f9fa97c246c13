"""`nemotron-diffusion train-tiny`: the recipe of the bundled model."""

from pathlib import Path
from typing import Annotated

import typer

from nemotron_diffusion_plugin.tools.cli.common import EVALUATED, MINUTES, SEEDS, bounded, check_output
from nemotron_diffusion_plugin.tools.extras import require


def train_tiny(
    output: Annotated[Path, typer.Argument(help="Folder to write the checkpoint to.", writable=True)],
    minutes: Annotated[
        float | None,
        bounded(
            help="Stop training after this time; without it the recipe's number of steps decides.",
            bounds=MINUTES,
        ),
    ] = None,
    seed: Annotated[int, bounded(help="Seed of weights, data and noise.", bounds=SEEDS)] = 0,
    eval_per_category: Annotated[
        int,
        bounded(help="Held-out questions per category to answer at the end; 0 skips it.", bounds=EVALUATED),
    ] = 20,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that is not empty.")] = False,
) -> None:
    """Train the tiny tri-mode model and its drafter LoRA on data the recipe generates itself."""
    check_output(output, force)
    require("torch")
    from nemotron_diffusion_plugin.tools.training.recipe import train_tiny as train

    train(output, minutes, seed, eval_per_category=eval_per_category, on_report=typer.echo)
