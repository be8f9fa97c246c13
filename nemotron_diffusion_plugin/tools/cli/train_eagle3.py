"""`nemotron-diffusion train-eagle3`: the recipe of the bundled Eagle3 head."""

from pathlib import Path
from typing import Annotated

import typer

from nemotron_diffusion_plugin.assets import BUNDLED_CHECKPOINT
from nemotron_diffusion_plugin.tools.cli.common import (
    EVALUATED,
    MINUTES,
    SEEDS,
    bounded,
    check_checkpoint,
    check_output,
)
from nemotron_diffusion_plugin.tools.extras import require


def train_eagle3(
    output: Annotated[Path, typer.Argument(help="Folder to write the head to.", writable=True)],
    target: Annotated[
        str,
        typer.Option(help="Checkpoint folder of a model that train-tiny made, or `tiny`, the bundled one."),
    ] = "tiny",
    minutes: Annotated[
        float | None,
        bounded(
            help="Stop training after this time; without it the recipe's number of steps decides.",
            bounds=MINUTES,
        ),
    ] = None,
    seed: Annotated[int, bounded(help="Seed of weights and data.", bounds=SEEDS)] = 0,
    eval_per_category: Annotated[
        int,
        bounded(help="Held-out questions per category to draft at the end; 0 skips it.", bounds=EVALUATED),
    ] = 20,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that is not empty.")] = False,
) -> None:
    """Train an Eagle3 head, the baseline of self-speculation, that vLLM and SGLang serve beside its target."""
    check_output(output, force)
    folder = BUNDLED_CHECKPOINT if target == "tiny" else Path(target)
    check_checkpoint("--target", folder)
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"--target: got {target}, expected a checkpoint folder with its tokenizer.json")
    require("torch")
    from nemotron_diffusion_plugin.tools.training.eagle3.recipe import train_eagle3 as train

    train(output, folder, minutes, seed, eval_per_category=eval_per_category, on_report=typer.echo)
