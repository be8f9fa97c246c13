"""The true cost of a step without weights: a checkpoint of a published shape, load format dummy, acceptance made up.

    python -m benchmarks.real_size --engine vllm --size 8B --gpu h200 --output real-8B-vllm

Writes a folder with config and tokenizer (no weights), serves it with each kind of server, and measures AR,
self-speculation and Eagle3 (a random head of the usual shape) at the acceptance lengths that were published. Only the
times mean something; the text is noise. `--small` is a tiny shape, to try the script on a CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from benchmarks.arguments import several, within
from nemotron_diffusion_plugin.model.forward_cost import Precision
from nemotron_diffusion_plugin.model.hardware import find_gpu
from nemotron_diffusion_plugin.model.lora import CONFIG_FILE
from nemotron_diffusion_plugin.model.shapes import PUBLISHED, find_shape
from nemotron_diffusion_plugin.model.spec import TEXT
from nemotron_diffusion_plugin.tools.bench.data import open_source
from nemotron_diffusion_plugin.tools.bench.engines import ENGINES
from nemotron_diffusion_plugin.tools.bench.errors import BenchError
from nemotron_diffusion_plugin.tools.bench.methods import ServerKind, find_method, find_methods
from nemotron_diffusion_plugin.tools.bench.report import report, table
from nemotron_diffusion_plugin.tools.bench.result import Result
from nemotron_diffusion_plugin.tools.bench.run import Run
from nemotron_diffusion_plugin.tools.bench.servers import Servers
from nemotron_diffusion_plugin.tools.bench.setup import Setup
from nemotron_diffusion_plugin.tools.bench.statistics import Spread
from nemotron_diffusion_plugin.tools.errors import errors_in_one_line
from nemotron_diffusion_plugin.tools.outputs import made
from nemotron_diffusion_plugin.tools.roofline.methods import EAGLE_DRAFT_VOCAB, Assumptions
from nemotron_diffusion_plugin.tools.roofline.report import Setting
from nemotron_diffusion_plugin.tools.training.eagle3.checkpoint import config_fields
from nemotron_diffusion_plugin.tools.training.eagle3.head import HeadConfig
from nemotron_diffusion_plugin.tools.training.random_model import SMALL_CONFIG, write_config
from nemotron_diffusion_plugin.tools.training.tokenizer import write_tokenizer

SMALL = "small"
SELF_SPECULATION_LENGTH, EAGLE3_LENGTH = 6.82, 2.75
"""Acceptance lengths published for 8B with its LoRA and for Eagle3 with Qwen3-8B, on SPEED-Bench."""
METHODS = ("ar", "eagle3", "self_speculation", "self_speculation_without_lora")
CEILINGS = {"ar": "ar", "eagle3": "eagle3", "self_speculation": "self_speculation"}
_LORA = {"peft_type": "LORA", "r": 128, "lora_alpha": 512, "target_modules": ["o_proj"], "bias": "none"}
_WORDS = "the quick brown fox jumps over a lazy dog and finds nothing but rain "


@dataclass(frozen=True)
class Cost:
    """What one method took at one concurrency: tokens per second of all requests, seconds of one cycle."""

    method: str
    concurrency: int
    tokens_per_second: Spread
    cycle: Spread


def model_config(size: str) -> dict[str, Any]:
    """Return the fields of `config.json` of a published model, or of the small shape."""
    if size == SMALL:
        return {**SMALL_CONFIG, "num_hidden_layers": 4}
    shape = PUBLISHED[size]
    rope = {**SMALL_CONFIG["rope_parameters"], "original_max_position_embeddings": 16384}
    return {
        **SMALL_CONFIG,
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": 262144,
        "rope_parameters": {**rope, "rope_theta": 1e9 if size == "14B" else 1e6},
        "torch_dtype": "bfloat16",
    }


def head_config(model: dict[str, Any]) -> dict[str, Any]:
    """Return the `config.json` of an Eagle3 head of the usual form for a model: one layer as wide as the model's."""
    layers = model["num_hidden_layers"]
    seen = (2, layers // 2, layers - 3) if layers >= 8 else (layers - 3, layers - 2, layers - 1)
    same = {item.name: model[item.name] for item in fields(HeadConfig) if item.name in model}
    config = HeadConfig(**same, layers=seen, rope_theta=model["rope_parameters"]["rope_theta"])
    dtype = getattr(torch, model.get("torch_dtype", "float32"))
    return {**config_fields(config, dtype), "draft_vocab_size": min(EAGLE_DRAFT_VOCAB, config.vocab_size)}


def write_checkpoints(folder: Path, size: str) -> tuple[Path, Path]:
    """Write the model's folder and the Eagle3 head's, without weights, and return both."""
    model, head, config = folder / "model", folder / "eagle3", model_config(size)
    for path in (model / TEXT.lora_folder, head):
        path.mkdir(parents=True, exist_ok=True)
    write_config(model, config)
    write_tokenizer(model, config["vocab_size"])
    (model / TEXT.lora_folder / CONFIG_FILE).write_text(json.dumps(_LORA, indent=2) + "\n")
    (head / "config.json").write_text(json.dumps(head_config(config), indent=2) + "\n")
    return model, head


def write_prompts(path: Path, context: int) -> None:
    """Write different prompts of about `context` tokens."""
    rows = []
    for number in range(256):
        text = f"{number} " + _WORDS * (context // 12 + 1)
        rows.append({"messages": [{"role": "user", "content": text[: max(8, 4 * context)]}]})
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")


def acceptance(setup: Setup, method: str) -> float:
    """Return the tokens per cycle that a method's server is made to emit; 1 for AR."""
    return 1.0 if method == "ar" else setup.synthetic[find_method(method).kind.value]


def costs(result: Result) -> list[Cost]:
    """Return what every method took. A cycle is the time per token of a request times its tokens per cycle."""
    found = []
    for method in result.setup.methods:
        for concurrency in result.setup.concurrency:
            mine = result.loads_of(method, concurrency)
            if mine:
                length = acceptance(result.setup, method)
                cycles = [length * statistics.median(load.per_token) for load in mine]
                speeds = Spread.of([load.tokens_per_second for load in mine])
                found.append(Cost(method, concurrency, speeds, Spread.of(cycles)))
    return found


def cost_table(result: Result, ceiling: Setting | None, context: int) -> str:
    """Return the table of costs, with the share of the ceiling where the hardware is known."""
    rows = []
    for cost in costs(result):
        share = "–"
        if ceiling is not None and cost.method in CEILINGS:
            method = next(m for m in ceiling.methods if m.name == CEILINGS[cost.method])
            most = ceiling.ceiling(method, context, cost.concurrency)
            share = f"{100 * cost.tokens_per_second.median / most:.0f} %"
        cycle = cost.cycle
        scaled = Spread(1000 * cycle.median, 1000 * cycle.least, 1000 * cycle.most, cycle.count)
        rows.append(
            [
                find_method(cost.method).title,
                str(cost.concurrency),
                f"{acceptance(result.setup, cost.method):g}",
                scaled.text(2),
                cost.tokens_per_second.text(),
                share,
            ]
        )
    header = [
        "method",
        "concurrency",
        "tokens per cycle (made up)",
        "ms per cycle",
        "tokens/s",
        "of the ceiling",
    ]
    return table(header, rows)


@errors_in_one_line()
def main(arguments: Sequence[str]) -> int:
    chosen = _parser().parse_args(arguments)
    with made(chosen.output):
        return measure(chosen)


def measure(chosen: argparse.Namespace) -> int:
    """Write the checkpoints, measure what the options say, and write and print the page."""
    size = SMALL if chosen.small else chosen.size
    output: Path = chosen.output
    model, head = write_checkpoints(output / "checkpoint", size)
    prompts = output / "prompts.jsonl"
    write_prompts(prompts, chosen.context)
    setup = Setup(
        engine=chosen.engine,
        model=str(model),
        methods=tuple(method.name for method in find_methods(chosen.methods.split(","))),
        categories=("all",),
        launcher=chosen.launcher,
        server_options=chosen.server_options,
        eagle3=str(head),
        eagle3_drafts=chosen.eagle3_drafts,
        data=str(prompts),
        per_category=4,
        max_tokens=chosen.max_tokens,
        concurrency=chosen.concurrency,
        requests=chosen.requests,
        repeats=chosen.repeats,
        synthetic={
            ServerKind.MODES.value: SELF_SPECULATION_LENGTH,
            ServerKind.EAGLE3.value: EAGLE3_LENGTH,
        },
        ignore_eos=True,
        together=chosen.together,
    )
    ceiling = None
    if chosen.gpu:
        assumed = Assumptions(
            eagle_drafts=chosen.eagle3_drafts, eagle_passes=chosen.eagle3_drafts, lora_rank=128
        )
        ceiling = Setting(
            shape=find_shape(size if size != SMALL else str(model)),
            gpu=find_gpu(chosen.gpu, None, None),
            contexts=(chosen.context,),
            concurrencies=setup.concurrency,
            assumed=assumed,
            precision=Precision("bf16", "bf16"),
            efficiency=1.0,
            compute_efficiency=1.0,
        )
    result = Result.open(output / "bench.json", setup)
    try:
        with Servers(setup, result, output, timeout=chosen.start_timeout) as servers:
            source = open_source(setup.data, None, setup.seed)
            Run(result, source, servers, 600.0, lambda cell: print(cell, flush=True))()
    except BenchError as error:
        print(error.log_tail.rstrip(), file=sys.stderr)
        raise
    costs_page = cost_table(result, ceiling, chosen.context)
    (output / "report.md").write_text(f"{report(result)}\n## Costs\n\n{costs_page}\n")
    print(costs_page)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", choices=ENGINES, default="vllm")
    parser.add_argument("--size", choices=tuple(PUBLISHED), default="8B")
    parser.add_argument("--small", action="store_true", help="a tiny shape instead, to try the script")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--concurrency", type=several(within(int, 1, 4096)), default=(1, 2, 4, 8, 16, 32, 64))
    parser.add_argument(
        "--context", type=within(int, 1, 10**6), default=128, help="tokens of a prompt, about"
    )
    parser.add_argument("--max-tokens", type=within(int, 1, 10**6), default=256)
    parser.add_argument(
        "--requests", type=within(int, 1, 10**6), default=4, help="of a timed run, at least the concurrency"
    )
    parser.add_argument("--repeats", type=within(int, 1, 1000), default=5)
    parser.add_argument("--eagle3-drafts", type=within(int, 1, 4096), default=3)
    parser.add_argument("--gpu", help="a100, h100, h200 or b200: adds the share of the ceiling")
    parser.add_argument("--launcher", help="the command that starts a server, up to the model's name")
    parser.add_argument("--server-options", default="")
    parser.add_argument("--together", action="store_true", help="keep all servers running at once")
    parser.add_argument("--start-timeout", type=within(float, 1.0, 1e6), default=1800.0)
    parser.add_argument("--output", type=Path, required=True)
    return parser


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
