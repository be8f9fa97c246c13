"""`make demo`: start an engine's server, ask it one question in all three modes, stop it."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from nemotron_diffusion_plugin.tools.cli.demo import MOST_TOKENS, QUESTION, Answer, ask_in_every_mode, show
from nemotron_diffusion_plugin.tools.errors import FAILED, errors_in_one_line
from tests.engines.recipe import ENGINES
from tests.engines.server import EngineServer, ServerError, check_model, has_gpu


@dataclass(frozen=True)
class Words:
    """What differs between the engines in what the demo says and asks for."""

    command: str
    extra: str
    request_field: str
    cpu_options: Sequence[str] = ()


WORDS = {
    "vllm": Words(
        command="vllm serve",
        extra="vllm",
        request_field="vllm_xargs",
        cpu_options=("--kv-cache-memory-bytes", "128M"),
    ),
    "sglang": Words(command="sglang serve --model-path", extra="sglang", request_field="custom_params"),
}
NEXT = """\
[b]Serve the real model on a GPU[/]
  pip install '.\\[{words.extra}]'
  {words.command} nvidia/Nemotron-Labs-Diffusion-8B
[b]Choose per request[/], with the OpenAI client
  extra_body={{"{words.request_field}": {{"decoding_mode": "ar" | "diffusion" | "self_speculation"}}}}
[b]Keep this one running[/]
  make serve ENGINE={engine} PORT=8000"""


def server_class(engine: str) -> type[EngineServer]:
    """Return the `Server` of one of `ENGINES`."""
    launcher: Any = import_module(f"tests.engines.{engine}.launch")
    found: type[EngineServer] = launcher.Server
    return found


@contextmanager
def log_of_a_failure() -> Iterator[Path]:
    """Yield a log of its own for a server; it stays when something fails."""
    handle, name = tempfile.mkstemp(prefix="nemotron-diffusion-demo-", suffix=".log")
    os.close(handle)
    try:
        yield Path(name)
    except Exception:
        raise
    except BaseException:
        Path(name).unlink()
        raise
    Path(name).unlink()


def serve_and_ask(arguments: argparse.Namespace, console: Console) -> list[Answer]:
    """Return the answers of a server that lives as long as this takes."""
    device = "GPU" if has_gpu() else "CPU"
    command = f"{WORDS[arguments.engine].command} {arguments.model}"
    with log_of_a_failure() as log, console.status("") as status:
        console.print(f"Starting [b]{escape(command)}[/] on the {device}; log: {log}")
        server = server_class(arguments.engine)(
            arguments.model,
            *(() if has_gpu() else WORDS[arguments.engine].cpu_options),
            log=log,
            on_wait=lambda seconds, line: status.update(f"{seconds:3.0f} s  [dim]{escape(line[:90])}[/]"),
        )
        with server:
            console.print(f"Ready after {server.seconds_to_ready:.0f} s at {server.url}")
            status.update("asking in all three modes")
            return ask_in_every_mode(server.url, arguments.question, arguments.max_tokens)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0])
    parser.add_argument("--model", required=True, help="checkpoint folder or hub name")
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--max-tokens", type=int, default=200)
    arguments = parser.parse_args()
    if not 1 <= arguments.max_tokens <= MOST_TOKENS:
        parser.error(f"--max-tokens: got {arguments.max_tokens}, expected 1 to {MOST_TOKENS}")
    console = Console()
    with errors_in_one_line():
        check_model(arguments.model)
        try:
            answers = serve_and_ask(arguments, console)
        except ServerError as error:
            print(f"error: {error}", file=sys.stderr)
            return FAILED
    show(console, arguments.question, answers)
    console.print(NEXT.format(words=WORDS[arguments.engine], engine=arguments.engine))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
