"""`nemotron-diffusion demo`: ask a running server one question in all three modes."""

import time
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nemotron_diffusion_plugin.options import FIXED_MODES, DecodingMode
from nemotron_diffusion_plugin.tools.cli.common import DEFAULT_URL, bounded, server_option, text_of
from nemotron_diffusion_plugin.tools.client.counters import ModeCounters, read_settled_counters
from nemotron_diffusion_plugin.tools.client.served_model import (
    ServedModel,
    check_counters,
    find_model,
    refusals_in_words,
)

QUESTION = "Add 276 and 548 step by step."
WARM_UP_TOKENS = 40
MOST_TOKENS = 10**6


@dataclass(frozen=True)
class Answer:
    """What a server said in one mode, how long it took in seconds, and what it counted meanwhile."""

    mode: DecodingMode
    text: str
    tokens: int
    seconds: float
    counters: ModeCounters


def demo(
    url: Annotated[str, server_option("Address of the server.")] = DEFAULT_URL,
    question: Annotated[str, typer.Option(help="What to ask.")] = QUESTION,
    max_tokens: Annotated[int, bounded(help="Most tokens of an answer.", bounds=(1, MOST_TOKENS))] = 200,
) -> None:
    """Ask a running server one question in all three modes and compare what each one took."""
    show(Console(), question, ask_in_every_mode(url, text_of("--question", question), max_tokens))


def ask_in_every_mode(url: str, question: str, max_tokens: int) -> list[Answer]:
    """Ask through the OpenAI API, greedily, one mode after the other, each warmed up by a short request.

    Counts are exact while nobody else asks in the same mode.

    Raises:
        ValueError: the client is not installed, or the server serves another model, shows no counters or refuses.
        OSError: no server answers.
        Failure: the server did not answer a question.
    """
    url = url.rstrip("/")
    served = find_model(url)
    check_counters(served)
    answers = []
    for mode in FIXED_MODES:
        _ask(served, question, min(max_tokens, WARM_UP_TOKENS), mode)
        before = read_settled_counters(url, mode.value)
        start = time.perf_counter()
        text, tokens = _ask(served, question, max_tokens, mode)
        seconds = time.perf_counter() - start
        counted = read_settled_counters(url, mode.value).since(before)
        answers.append(Answer(mode, text, tokens, seconds, counted))
    return answers


def show(console: Console, question: str, answers: list[Answer]) -> None:
    """Print the answers side by side with what each mode took."""
    table = Table(title=f"[b]{escape(question)}[/]", title_justify="left", show_lines=True)
    table.add_column("", overflow="fold")
    for answer in answers:
        table.add_column(answer.mode.value, overflow="fold")
    table.add_row("answer", *(escape(answer.text) for answer in answers))
    table.add_row("tokens", *(str(answer.tokens) for answer in answers))
    table.add_row("forwards", *(_forwards(answer.counters) for answer in answers))
    table.add_row("tokens per forward", *(f"{answer.counters.tokens_per_forward:.2f}" for answer in answers))
    table.add_row("acceptance length", *(_acceptance(answer) for answer in answers))
    table.add_row("tokens per second", *(f"{answer.tokens / answer.seconds:.0f}" for answer in answers))
    console.print(table)
    autoregressive = next((answer.text for answer in answers if answer.mode is DecodingMode.AR), None)
    speculative = next(
        (answer.text for answer in answers if answer.mode is DecodingMode.SELF_SPECULATION), None
    )
    if autoregressive is not None and autoregressive == speculative:
        console.print("Self-speculation gave the autoregressive answer, token for token, as it always does.")


def _ask(served: ServedModel, question: str, max_tokens: int, mode: DecodingMode) -> tuple[str, int]:
    with refusals_in_words(served.url):
        completion = served.client.chat.completions.create(
            model=served.name,
            messages=[{"role": "user", "content": question}],
            max_tokens=max_tokens,
            temperature=0,
            extra_body={served.request_field: {"decoding_mode": mode.value}},
        )
    text = completion.choices[0].message.content or ""
    return text, completion.usage.completion_tokens if completion.usage else 0


def _forwards(counters: ModeCounters) -> str:
    parts = [
        f"{count} {kind}"
        for kind, count in (
            ("draft", counters.draft_forwards),
            ("denoise", counters.denoise_forwards),
            ("verify", counters.verify_forwards),
        )
        if count
    ]
    return f"{counters.forwards} ({', '.join(parts)})" if parts else "0"


def _acceptance(answer: Answer) -> str:
    is_verified = answer.mode is DecodingMode.SELF_SPECULATION
    return f"{answer.counters.acceptance_length:.2f}" if is_verified else "–"
