"""`nemotron-diffusion make-checkpoint`: a random checkpoint in the published format."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from nemotron_diffusion_plugin.tools.cli.common import SEEDS, WeightType, bounded, check_output
from nemotron_diffusion_plugin.tools.extras import require


def make_checkpoint(
    output: Annotated[Path, typer.Argument(help="Folder to write; must be new or empty.", writable=True)],
    seed: Annotated[int, bounded(help="Seed of the weights.", bounds=SEEDS)] = 0,
    shards: Annotated[int, typer.Option(help="Number of weight files; above 1 with an index.")] = 1,
    lora: Annotated[bool, typer.Option(help="Add a drafter LoRA.")] = True,
    dtype: Annotated[WeightType, typer.Option(help="Dtype of the weights.")] = WeightType.FLOAT32,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Replace a field of config.json: hidden_size=64, rope_parameters.factor=8; repeatable.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that is not empty.")] = False,
) -> None:
    """Write a checkpoint with random weights, tokenizer and chat template, in any shape, for tests."""
    check_output(output, force)
    require("torch")
    import torch

    from nemotron_diffusion_plugin.model.names import expected_shapes
    from nemotron_diffusion_plugin.tools.training.random_model import write_random_checkpoint

    config = write_random_checkpoint(
        output,
        config=read_settings(settings or []),
        seed=seed,
        shards=shards,
        lora=lora,
        dtype=getattr(torch, dtype.value),
    )
    tensors = len(expected_shapes(config))
    files = "1 file" if shards == 1 else f"{shards} files"
    typer.echo(f"{output}: {tensors} tensors in {files}, {'with' if lora else 'without'} a drafter LoRA")


def read_settings(settings: list[str]) -> dict[str, Any]:
    """Return config fields from `field=value` texts; values are JSON, or plain text where they are not.

    Raises `ValueError` for a text without a name or for an unknown field.
    """
    from nemotron_diffusion_plugin.tools.training.random_model import SMALL_CONFIG

    fields: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        group, dot, inner = name.partition(".")
        if not equals or not name:
            raise ValueError(f"--set: got '{setting}', expected FIELD=VALUE")
        known = [key for key in SMALL_CONFIG if key != "rope_parameters"]
        known += [f"rope_parameters.{key}" for key in SMALL_CONFIG["rope_parameters"]]
        if name not in known:
            raise ValueError(f"--set: unknown field '{name}', expected one of {', '.join(known)}")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        if dot:
            fields.setdefault(group, {})[inner] = value
        else:
            fields[name] = value
    return fields
