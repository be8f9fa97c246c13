"""`nemotron-diffusion roofline`: how fast a model can be on a GPU, by arithmetic."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nemotron_diffusion_plugin.model.forward_cost import Precision
from nemotron_diffusion_plugin.model.hardware import find_gpu
from nemotron_diffusion_plugin.model.shapes import find_shape
from nemotron_diffusion_plugin.tools.cli.common import numbers, shared, takes
from nemotron_diffusion_plugin.tools.roofline.methods import Assumptions
from nemotron_diffusion_plugin.tools.roofline.plot import plot
from nemotron_diffusion_plugin.tools.roofline.points import read_points
from nemotron_diffusion_plugin.tools.roofline.report import Setting, make_report, report_json
from nemotron_diffusion_plugin.tools.roofline.table import draw

_WIDE = 1000


@dataclass(frozen=True)
class Options:
    """What the command line says; `Setting` is what becomes of it."""

    model: Annotated[
        str, typer.Option("--model", "-m", help="3B, 8B, 14B, or a checkpoint folder with a config.json.")
    ] = "8B"
    gpu: Annotated[
        str, typer.Option(help="a100, h100, h200, b200, or custom with --bandwidth and --tflops.")
    ] = "h200"
    bandwidth: Annotated[
        float | None, typer.Option(help="TB/s instead of the data sheet's, for instance as measured.")
    ] = None
    tflops: Annotated[float | None, typer.Option(help="Dense bf16 TFLOP/s instead of the data sheet's.")] = (
        None
    )
    acceptance: Annotated[
        float, typer.Option(help="Tokens per cycle of self-speculation; the default is published for 8B.")
    ] = 6.82
    eagle_acceptance: Annotated[
        float, typer.Option(help="Tokens per cycle of Eagle3; the default is published for Qwen3-8B.")
    ] = 2.75
    eagle_drafts: Annotated[int, typer.Option(help="Drafts that Eagle3 verifies per cycle.")] = 3
    eagle_passes: Annotated[
        int, typer.Option(help="Passes of the Eagle3 head per cycle; a chain takes one per draft.")
    ] = 1
    tpf: Annotated[
        float | None, typer.Option(help="Tokens per forward of diffusion; without it diffusion is left out.")
    ] = None
    block_size: Annotated[int, typer.Option(help="Tokens of a block, its seed included.")] = 32
    lora_rank: Annotated[
        int, typer.Option(help="Rank of a drafter LoRA applied beside o_proj; 0: merged, no extra bytes.")
    ] = 0
    context: Annotated[
        list[str] | None,
        typer.Option(help="Cached tokens of each request: 0,8192 or the option repeated.", metavar="TOKENS"),
    ] = None
    concurrency: Annotated[
        list[str] | None,
        typer.Option(help="Concurrent requests: 1,4,16,64 or the option repeated.", metavar="REQUESTS"),
    ] = None
    efficiency: Annotated[
        float, typer.Option(help="Share of the bandwidth and of the FLOP/s that is reached, 0.001 to 1.")
    ] = 1.0
    compute_efficiency: Annotated[
        float | None, typer.Option(help="Share of the FLOP/s, where it differs from --efficiency.")
    ] = None
    weight_dtype: Annotated[str, typer.Option(help="Dtype of the layers' matrices: bf16, fp8 or int4.")] = (
        "bf16"
    )
    kv_dtype: Annotated[str, typer.Option(help="Dtype of the KV cache: bf16 or fp8.")] = "bf16"
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the ceilings into this file; needs matplotlib (extra bench).", writable=True),
    ] = None
    measured: Annotated[
        Path | None, typer.Option(help="JSON file of measured points to set beside the ceilings.")
    ] = None


@takes(Options)
def roofline(options: Options) -> None:
    """Print what a forward must read and compute, and the most tokens per second of each way to decode."""
    setting = _setting(options)
    report = make_report(setting, read_points(options.measured) if options.measured else [])
    if options.plot is not None:
        plot(report, options.plot)
    if options.as_json:
        typer.echo(json.dumps(report_json(report), indent=2))
    else:
        console, tables = Console(), draw(report)
        needed = console.measure(tables, options=console.options.update(max_width=_WIDE)).minimum
        console.width = max(console.width, needed)  # or a number would be cut off
        console.print(tables)


def _setting(options: Options) -> Setting:
    """Return what is computed; raises ValueError for options that cannot be."""
    compute_efficiency = options.compute_efficiency
    return Setting(
        shape=find_shape(options.model),
        gpu=find_gpu(options.gpu, options.bandwidth, options.tflops),
        contexts=numbers("--context", options.context or ["0,8192"]),
        concurrencies=numbers("--concurrency", options.concurrency or ["1,4,16,64"]),
        assumed=Assumptions(**shared(options, Assumptions)),
        precision=Precision(options.weight_dtype, options.kv_dtype),
        efficiency=options.efficiency,
        compute_efficiency=options.efficiency if compute_efficiency is None else compute_efficiency,
    )
