"""`nemotron-diffusion train-eagle3`: the recipe of the bundled Eagle3 head."""

from pathlib import Path
from typing import Annotated

import typer

from nemotron_diffusion_plugin.assets import BUNDLED_CHECKPOINT
from nemotron_diffusion_plugin.tools.cli.common import (
    bad_input_is_one_line,
    check_output,
    check_training,
)


def train_eagle3(
    output: Annotated[Path, typer.Argument(help="Folder to write the head to.")],
    target: Annotated[
        str,
        typer.Option(help="Checkpoint folder of a model that train-tiny made, or `tiny`, the bundled one."),
    ] = "tiny",
    minutes: Annotated[
        float | None,
        typer.Option(help="Stop training after this time; without it the recipe's number of steps decides."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and data.")] = 0,
    eval_per_category: Annotated[
        int, typer.Option(help="Held-out questions per category to draft at the end; 0 skips it.")
    ] = 20,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that is not empty.")] = False,
) -> None:
    """Train an Eagle3 head, the baseline of self-speculation, that vLLM and SGLang serve beside its target."""
    with bad_input_is_one_line():
        check_training(minutes, eval_per_category)
        check_output(output, force)
        folder = BUNDLED_CHECKPOINT if target == "tiny" else Path(target)
        if not (folder / "tokenizer.json").is_file():
            raise ValueError(f"--target: got {target}, expected a checkpoint folder with its tokenizer.json")
    from nemotron_diffusion_plugin.tools.training.eagle3.recipe import train_eagle3 as train

    with bad_input_is_one_line():
        train(output, folder, minutes, seed, eval_per_category=eval_per_category, on_report=typer.echo)
