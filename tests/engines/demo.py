"""`make demo`: start an engine's server, ask it one question in all three modes, stop it."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from nemotron_diffusion_plugin.tools.cli.demo import QUESTION, ask_in_every_mode, show
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
  pip install 'nemotron-diffusion-plugin\\[{words.extra}]'
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


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0])
    parser.add_argument("--model", required=True, help="checkpoint folder or hub name")
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--max-tokens", type=int, default=200)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console, words = Console(), WORDS[arguments.engine]
    try:
        check_model(arguments.model)
    except FileNotFoundError as error:
        console.print(escape(str(error)))
        return 2
    log = Path(tempfile.gettempdir()) / f"nemotron-diffusion-demo-{arguments.engine}.log"
    device = "GPU" if has_gpu() else "CPU"
    try:
        with console.status("") as status:
            console.print(
                f"Starting [b]{words.command} {escape(str(arguments.model))}[/] on the {device}; log: {log}"
            )
            server = server_class(arguments.engine)(
                arguments.model,
                *(() if has_gpu() else words.cpu_options),
                log=log,
                on_wait=lambda seconds, line: status.update(f"{seconds:3.0f} s  [dim]{escape(line[:90])}[/]"),
            )
            with server:
                console.print(f"Ready after {server.seconds_to_ready:.0f} s at {server.url}")
                status.update("asking in all three modes")
                try:
                    answers = ask_in_every_mode(server.url, arguments.question, arguments.max_tokens)
                except Exception:
                    console.print(f"[dim]{escape(server.log_tail())}[/]")
                    raise
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 130
    except ServerError as error:
        console.print(f"[red]The server did not start:[/] {escape(str(error))}")
        return 1
    show(console, arguments.question, answers)
    console.print(NEXT.format(words=words, engine=arguments.engine))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
