"""`nemotron-diffusion train-tiny`: the recipe of the bundled model."""

from pathlib import Path
from typing import Annotated

import typer

from nemotron_diffusion_plugin.tools.cli.common import bad_input_is_one_line, check_output, check_training


def train_tiny(
    output: Annotated[Path, typer.Argument(help="Folder to write the checkpoint to.")],
    minutes: Annotated[
        float | None,
        typer.Option(help="Stop training after this time; without it the recipe's number of steps decides."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, data and noise.")] = 0,
    eval_per_category: Annotated[
        int, typer.Option(help="Held-out questions per category to answer at the end; 0 skips it.")
    ] = 20,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that is not empty.")] = False,
) -> None:
    """Train the tiny tri-mode model and its drafter LoRA on data the recipe generates itself."""
    with bad_input_is_one_line():
        check_training(minutes, eval_per_category)
        check_output(output, force)
    from nemotron_diffusion_plugin.tools.training.recipe import train_tiny as train

    train(output, minutes, seed, eval_per_category=eval_per_category, on_report=typer.echo)
