"""The live view of a request: what it has emitted, and the block being drafted, denoised or verified."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from nemotron_diffusion_plugin.reference.result import OnStep, Step

MASKED = "▒"
_BLOCK_STYLE = {"prefill": "bold", "draft": "yellow", "denoise": "cyan", "verify": "green"}


@contextmanager
def live_view(tokenizer: Any, delay: float = 0.0, console: Console | None = None) -> Iterator[OnStep]:
    """Draw every step that the yielded function is given; the drawing disappears at the end."""
    forwards: dict[str, int] = {}
    with Live(console=console, refresh_per_second=30, transient=True) as live:

        def show(step: Step) -> None:
            forwards[step.forward] = forwards.get(step.forward, 0) + 1
            live.update(draw(step, tokenizer, forwards), refresh=True)
            time.sleep(delay)

        yield show


def draw(step: Step, tokenizer: Any, forwards: dict[str, int]) -> Group:
    """Return one picture: the text so far, the block with its masks, and the forwards counted by kind."""
    emitted = tokenizer.decode(step.emitted, skip_special_tokens=True)
    style = _BLOCK_STYLE[step.forward]
    block = Text()
    for token, masked in zip(step.tokens, step.masked, strict=True):
        if masked:
            block.append(f"{MASKED} ", style="dim")
        else:
            block.append(tokenizer.decode([token]), style=style)
    counts = " · ".join(f"{count} {kind}" for kind, count in forwards.items() if kind != "prefill")
    return Group(
        Panel(Text(emitted), title="text", title_align="left", border_style="dim"),
        Panel(block, title=f"block after {step.forward}", title_align="left", border_style=style),
        Text(f"forwards: {counts or 'prefill'}", style="dim"),
    )
