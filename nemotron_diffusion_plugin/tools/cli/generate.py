"""`nemotron-diffusion generate`: one prompt through the reference decoder."""

import sys
import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nemotron_diffusion_plugin.options import CommitRule, DecodingOptions
from nemotron_diffusion_plugin.tools.cli.common import BUNDLED_CHECKPOINT, WeightType, bad_input_is_one_line

if TYPE_CHECKING:
    from nemotron_diffusion_plugin.reference.decoder import ReferenceDecoder
    from nemotron_diffusion_plugin.reference.result import Generation


class Mode(str, Enum):
    """The modes of a request, and quadratic self-speculation, which only the reference decoder has."""

    AR = "ar"
    DIFFUSION = "diffusion"
    SELF_SPECULATION = "self_speculation"
    QUADRATIC = "quadratic"


def generate(
    prompt: Annotated[str, typer.Argument(help="The user's message; - reads it from standard input.")],
    model: Annotated[
        Path, typer.Option("--model", "-m", help="Checkpoint folder; the bundled tiny model by default.")
    ] = BUNDLED_CHECKPOINT,
    mode: Annotated[Mode, typer.Option(help="How to decode.")] = Mode.SELF_SPECULATION,
    threshold: Annotated[
        float | None, typer.Option(help="Confidence in (0, 1] from which diffusion commits a token.")
    ] = None,
    denoising_steps: Annotated[
        int | None, typer.Option(help="Most denoise steps a diffusion block may take; no bound by default.")
    ] = None,
    block_size: Annotated[
        int | None, typer.Option(help="Tokens of a block with its seed; the model's block size by default.")
    ] = None,
    draft_lora: Annotated[
        bool, typer.Option(help="Draft with the drafter LoRA, where the checkpoint has one.")
    ] = True,
    commit_rule: Annotated[
        CommitRule, typer.Option(help="Which tokens a denoise step of diffusion commits.")
    ] = CommitRule.THRESHOLD,
    tokens_per_step: Annotated[
        int | None, typer.Option(help="Tokens a denoise step commits; with --commit-rule fixed.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n", help="Most tokens to emit.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the noise at a temperature above 0.")] = 0,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Go on after the end-of-text token.")
    ] = False,
    max_model_len: Annotated[
        int | None, typer.Option(help="Most tokens of prompt and output; the model's limit by default.")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Do not wrap the prompt in the chat template.")] = False,
    thinking: Annotated[bool, typer.Option("--thinking", help="Open a think block for the answer.")] = False,
    dtype: Annotated[WeightType, typer.Option(help="Dtype to compute in.")] = WeightType.FLOAT32,
    live: Annotated[
        bool | None, typer.Option(help="Show the block while it is denoised; on a terminal by default.")
    ] = None,
    delay: Annotated[
        float, typer.Option(help="Seconds to pause after every forward of the live view.")
    ] = 0.0,
) -> None:
    """Answer one prompt with the reference decoder, and say how many forwards it took."""
    with bad_input_is_one_line():
        prompt = sys.stdin.read() if prompt == "-" else prompt
        chosen: dict[str, Any] = {
            "threshold": threshold,
            "denoising_steps": denoising_steps,
            "block_size": block_size,
            "tokens_per_step": tokens_per_step,
        }
        raw_options = {name: value for name, value in chosen.items() if value is not None}
        raw_options |= {"draft_lora": draft_lora, "commit_rule": commit_rule.value}
        if mode is not Mode.QUADRATIC:
            raw_options["decoding_mode"] = mode.value
        decoder, tokenizer = _load(model, dtype)
        limit = decoder.model.config.block_size
        options = DecodingOptions.parse(raw_options, DecodingOptions.for_model(limit), limit)
        prompt_ids = _encode(tokenizer, prompt, raw, thinking)
        show = sys.stdout.isatty() if live is None else live
        started = time.perf_counter()
        with _viewer(tokenizer, delay) if show else _nobody() as on_step:
            result = decoder.generate(
                prompt_ids,
                max_new_tokens,
                options,
                temperature=temperature,
                seed=seed,
                ignore_eos=ignore_eos,
                max_model_len=max_model_len,
                quadratic=mode is Mode.QUADRATIC,
                on_step=on_step,
            )
        seconds = time.perf_counter() - started
    typer.echo(tokenizer.decode(result.token_ids, skip_special_tokens=True))
    typer.echo(summarize(mode, result, seconds), err=True)


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
    from transformers import AutoTokenizer

    from nemotron_diffusion_plugin.model.spec import register
    from nemotron_diffusion_plugin.reference.decoder import ReferenceDecoder

    register()
    decoder = ReferenceDecoder.from_checkpoint(folder, getattr(torch, dtype.value))
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(
            f"{folder}: no tokenizer.json, expected the checkpoint's tokenizer beside its weights"
        )
    return decoder, AutoTokenizer.from_pretrained(folder)


def _encode(tokenizer: Any, prompt: str, raw: bool, thinking: bool) -> list[int]:
    if not raw:
        turns = [{"role": "user", "content": prompt}]
        prompt = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
        )
    ids: list[int] = tokenizer.encode(prompt, add_special_tokens=False)
    return ids


def _viewer(tokenizer: Any, delay: float) -> Any:
    from nemotron_diffusion_plugin.tools.cli.live import live_view

    return live_view(tokenizer, delay)


def _nobody() -> Any:
    from contextlib import nullcontext

    return nullcontext()
