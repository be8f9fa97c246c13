"""`nemotron-diffusion generate`: one prompt through the reference decoder."""

import re
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nemotron_diffusion_plugin.assets import BUNDLED_CHECKPOINT
from nemotron_diffusion_plugin.options import CommitRule, DecodingOptions, OptionError
from nemotron_diffusion_plugin.tools.cli.common import (
    SEEDS,
    WeightType,
    bounded,
    check_checkpoint,
    takes,
    text_of,
)
from nemotron_diffusion_plugin.tools.extras import require
from nemotron_diffusion_plugin.tools.tokenizer import load_tokenizer, render

if TYPE_CHECKING:
    from nemotron_diffusion_plugin.reference.decoder import ReferenceDecoder
    from nemotron_diffusion_plugin.reference.result import Generation

MOST_TOKENS = 2**31 - 1
_DECODING = ("threshold", "denoising_steps", "block_size", "tokens_per_step", "draft_lora")


class Mode(str, Enum):
    """The modes of a request, and quadratic self-speculation, which only the reference decoder has."""

    AR = "ar"
    DIFFUSION = "diffusion"
    SELF_SPECULATION = "self_speculation"
    QUADRATIC = "quadratic"


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    prompt: Annotated[str, typer.Argument(help="The user's message; - reads it from standard input.")]
    model: Annotated[
        Path, typer.Option("--model", "-m", help="Checkpoint folder; the bundled tiny model by default.")
    ] = BUNDLED_CHECKPOINT
    mode: Annotated[Mode, typer.Option(help="How to decode.")] = Mode.SELF_SPECULATION
    threshold: Annotated[
        float | None, typer.Option(help="Confidence in (0, 1] from which diffusion commits a token.")
    ] = None
    denoising_steps: Annotated[
        int | None,
        bounded(
            help="Most denoise steps a diffusion block may take; no bound by default.",
            bounds=(1, MOST_TOKENS),
        ),
    ] = None
    block_size: Annotated[
        int | None, typer.Option(help="Tokens of a block with its seed; the model's block size by default.")
    ] = None
    draft_lora: Annotated[
        bool, typer.Option(help="Draft with the drafter LoRA, where the checkpoint has one.")
    ] = True
    commit_rule: Annotated[
        CommitRule, typer.Option(help="Which tokens a denoise step of diffusion commits.")
    ] = CommitRule.THRESHOLD
    tokens_per_step: Annotated[
        int | None, typer.Option(help="Tokens a denoise step commits; with --commit-rule fixed.")
    ] = None
    max_new_tokens: Annotated[
        int, bounded("--max-new-tokens", "-n", help="Most tokens to emit.", bounds=(1, MOST_TOKENS))
    ] = 256
    temperature: Annotated[float, bounded(help="0 is greedy.", bounds=(0, 100))] = 0.0
    seed: Annotated[int, bounded(help="Seed of the noise at a temperature above 0.", bounds=SEEDS)] = 0
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on after the end-of-text token.")] = (
        False
    )
    max_model_len: Annotated[
        int | None, typer.Option(help="Most tokens of prompt and output; the model's limit by default.")
    ] = None
    raw: Annotated[bool, typer.Option("--raw", help="Do not wrap the prompt in the chat template.")] = False
    thinking: Annotated[bool, typer.Option("--thinking", help="Open a think block for the answer.")] = False
    dtype: Annotated[WeightType, typer.Option(help="Dtype to compute in.")] = WeightType.FLOAT32
    live: Annotated[
        bool | None, typer.Option(help="Show the block while it is denoised; on a terminal by default.")
    ] = None
    delay: Annotated[
        float, bounded(help="Seconds to pause after every forward of the live view.", bounds=(0, 60))
    ] = 0.0


@takes(Options)
def generate(options: Options) -> None:
    """Answer one prompt with the reference decoder, and say how many forwards it took."""
    prompt = text_of("PROMPT", _read_stdin() if options.prompt == "-" else options.prompt)
    check_checkpoint("--model", options.model)
    require("torch")
    from nemotron_diffusion_plugin.tools.cli.live import live_view

    decoder, tokenizer = _load(options.model, options.dtype)
    config = decoder.model.config
    decoding = _decoding_options(options, config.block_size)
    prompt_ids = _encode(tokenizer, prompt, options.raw, options.thinking)
    limit = _check_length(len(prompt_ids), options.max_model_len, config.max_position_embeddings)
    show = sys.stdout.isatty() if options.live is None else options.live
    started = time.perf_counter()
    with live_view(tokenizer, options.delay) if show else nullcontext() as on_step:
        result = decoder.generate(
            prompt_ids,
            options.max_new_tokens,
            decoding,
            temperature=options.temperature,
            seed=options.seed,
            ignore_eos=options.ignore_eos,
            max_model_len=limit,
            quadratic=options.mode is Mode.QUADRATIC,
            on_step=on_step,
        )
    seconds = time.perf_counter() - started
    typer.echo(tokenizer.decode(result.token_ids, skip_special_tokens=True))
    typer.echo(summarize(options.mode, result, seconds), err=True)


def _read_stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"standard input: byte {error.start} is no UTF-8, expected the prompt as text in UTF-8"
        ) from None


def _check_length(prompt: int, given: int | None, most: int) -> int:
    """Return the most tokens of prompt and output; raises `ValueError` where they do not fit."""
    limit = most if given is None else given
    if not 2 <= limit <= most:
        raise ValueError(f"--max-model-len: got {limit}, expected 2 to {most}, the model's limit")
    if not 1 <= prompt < limit:
        where = "the model's limit" if given is None else "--max-model-len"
        raise ValueError(f"PROMPT: got {prompt} tokens, expected 1 to {limit - 1}, as {where} is {limit}")
    return limit


def _decoding_options(options: Options, block_size: int) -> DecodingOptions:
    """Return the options of the request for a model of this block size."""
    raw = {name: getattr(options, name) for name in _DECODING if getattr(options, name) is not None}
    raw["commit_rule"] = options.commit_rule.value
    if options.mode is not Mode.QUADRATIC:
        raw["decoding_mode"] = options.mode.value
    try:
        return DecodingOptions.parse(raw, DecodingOptions.for_model(block_size), block_size)
    except OptionError as error:
        flag = re.sub(r"field '(\w+)'", lambda field: "--" + field[1].replace("_", "-"), str(error))
        raise ValueError(flag) from None


def summarize(mode: Mode, result: "Generation", seconds: float) -> str:
    """Return one line about what a generation took."""
    parts = [
        mode.value,
        f"{len(result.token_ids)} tokens ({result.finish_reason})",
        f"{result.forwards} forwards: {result.draft_forwards} draft, {result.denoise_forwards} denoise, "
        f"{result.verify_forwards} verify",
        f"{result.tokens_per_forward:.2f} tokens per forward",
    ]
    if result.accepted:
        parts.append(f"acceptance length {result.acceptance_length:.2f}")
    if result.denoise_steps:
        mean = sum(result.denoise_steps) / len(result.denoise_steps)
        parts.append(f"{mean:.1f} denoise steps per block")
    parts.append(f"{len(result.token_ids) / max(seconds, 1e-9):.0f} tok/s")
    return " · ".join(parts)


def _load(folder: Path, dtype: WeightType) -> tuple["ReferenceDecoder", Any]:
    import torch

    from nemotron_diffusion_plugin.reference.decoder import ReferenceDecoder

    return ReferenceDecoder.from_checkpoint(folder, getattr(torch, dtype.value)), load_tokenizer(folder)


def _encode(tokenizer: Any, prompt: str, raw: bool, thinking: bool) -> list[int]:
    if not raw:
        prompt = render(tokenizer, [{"role": "user", "content": prompt}], enable_thinking=thinking)
    ids: list[int] = tokenizer.encode(prompt, add_special_tokens=False)
    return ids
