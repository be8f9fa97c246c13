"""`nemotron-diffusion roofline`: how fast a model can be on a GPU, by arithmetic."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nemotron_diffusion_plugin.tools.cli.common import bad_input_is_one_line


def roofline(
    model: Annotated[
        str, typer.Option("--model", "-m", help="3B, 8B, 14B, or a checkpoint folder with a config.json.")
    ] = "8B",
    gpu: Annotated[
        str, typer.Option(help="a100, h100, h200, b200, or custom with --bandwidth and --tflops.")
    ] = "h200",
    bandwidth: Annotated[
        float | None, typer.Option(help="TB/s instead of the data sheet's, for instance as measured.")
    ] = None,
    tflops: Annotated[
        float | None, typer.Option(help="Dense bf16 TFLOP/s instead of the data sheet's.")
    ] = None,
    acceptance: Annotated[
        float, typer.Option(help="Tokens per cycle of self-speculation; the default is published for 8B.")
    ] = 6.82,
    eagle_acceptance: Annotated[
        float, typer.Option(help="Tokens per cycle of Eagle3; the default is published for Qwen3-8B.")
    ] = 2.75,
    eagle_drafts: Annotated[int, typer.Option(help="Drafts that Eagle3 verifies per cycle.")] = 3,
    eagle_passes: Annotated[
        int, typer.Option(help="Passes of the Eagle3 head per cycle; a chain takes one per draft.")
    ] = 1,
    tpf: Annotated[
        float | None, typer.Option(help="Tokens per forward of diffusion; without it diffusion is left out.")
    ] = None,
    block_size: Annotated[int, typer.Option(help="Tokens of a block, its seed included.")] = 32,
    lora_rank: Annotated[
        int, typer.Option(help="Rank of a drafter LoRA applied beside o_proj; 0: merged, no extra bytes.")
    ] = 0,
    context: Annotated[
        list[str] | None,
        typer.Option(help="Cached tokens of each request: 0,8192 or the option repeated.", metavar="TOKENS"),
    ] = None,
    concurrency: Annotated[
        list[str] | None,
        typer.Option(help="Concurrent requests: 1,4,16,64 or the option repeated.", metavar="REQUESTS"),
    ] = None,
    efficiency: Annotated[
        float, typer.Option(help="Share of the bandwidth and of the FLOP/s that is reached, 0.001 to 1.")
    ] = 1.0,
    compute_efficiency: Annotated[
        float | None, typer.Option(help="Share of the FLOP/s, where it differs from --efficiency.")
    ] = None,
    weight_dtype: Annotated[
        str, typer.Option(help="Dtype of the layers' matrices: bf16, fp8 or int4.")
    ] = "bf16",
    kv_dtype: Annotated[str, typer.Option(help="Dtype of the KV cache: bf16 or fp8.")] = "bf16",
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the ceilings into this file; needs matplotlib (extra bench).")
    ] = None,
    measured: Annotated[
        Path | None, typer.Option(help="JSON file of measured points to set beside the ceilings.")
    ] = None,
) -> None:
    """Print what a forward must read and compute, and the most tokens per second of each way to decode."""
    from nemotron_diffusion_plugin.model.forward_cost import Precision
    from nemotron_diffusion_plugin.model.hardware import find_gpu
    from nemotron_diffusion_plugin.model.shapes import find_shape
    from nemotron_diffusion_plugin.tools.roofline.methods import Assumptions
    from nemotron_diffusion_plugin.tools.roofline.plot import plot as draw_plot
    from nemotron_diffusion_plugin.tools.roofline.plot import require_matplotlib
    from nemotron_diffusion_plugin.tools.roofline.points import read_points
    from nemotron_diffusion_plugin.tools.roofline.report import Setting, make_report, report_json
    from nemotron_diffusion_plugin.tools.roofline.table import draw

    with bad_input_is_one_line():
        setting = Setting(
            shape=find_shape(model),
            gpu=find_gpu(gpu, bandwidth, tflops),
            contexts=numbers("--context", context or ["0,8192"]),
            concurrencies=numbers("--concurrency", concurrency or ["1,4,16,64"]),
            assumed=Assumptions(
                acceptance=acceptance,
                eagle_acceptance=eagle_acceptance,
                eagle_drafts=eagle_drafts,
                eagle_passes=eagle_passes,
                tpf=tpf,
                block_size=block_size,
                lora_rank=lora_rank,
            ),
            precision=Precision(weight_dtype, kv_dtype),
            efficiency=efficiency,
            compute_efficiency=efficiency if compute_efficiency is None else compute_efficiency,
        )
        report = make_report(setting, read_points(measured) if measured else [])
        if plot is not None:
            require_matplotlib("--plot")
            draw_plot(report, plot)
    if as_json:
        typer.echo(json.dumps(report_json(report), indent=2))
    else:
        Console().print(draw(report))


def numbers(option: str, texts: list[str]) -> tuple[int, ...]:
    """Return the different whole numbers of comma-separated texts, in order of size.

    Raises `ValueError` for anything else.
    """
    found = set()
    for text in ",".join(texts).split(","):
        if not text.strip().isdecimal():
            raise ValueError(
                f"{option}: got '{text.strip()}', expected whole numbers with commas between them"
            )
        found.add(int(text))
    return tuple(sorted(found))
