"""`make demo`: start `vllm serve`, ask it one question in all three modes, stop it."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from nemotron_diffusion_plugin.cli.demo import QUESTION, ask_in_every_mode, show
from tests.engines.vllm.launch import Server, ServerError, check_model, has_gpu

CPU_OPTIONS = ("--kv-cache-memory-bytes", "128M")
NEXT = """\
[b]Serve the real model on a GPU[/]
  pip install 'nemotron-diffusion-plugin\\[vllm]'
  vllm serve nvidia/Nemotron-Labs-Diffusion-8B
[b]Choose per request[/], with the OpenAI client
  extra_body={"vllm_xargs": {"decoding_mode": "ar" | "diffusion" | "self_speculation"}}
[b]Keep this one running[/]
  make serve PORT=8000"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="checkpoint folder or hub name")
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--max-tokens", type=int, default=200)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console()
    try:
        check_model(arguments.model)
    except FileNotFoundError as error:
        console.print(escape(str(error)))
        return 2
    log = Path(tempfile.gettempdir()) / "nemotron-diffusion-demo.log"
    device = "GPU" if has_gpu() else "CPU"
    try:
        with console.status("") as status:
            console.print(
                f"Starting [b]vllm serve {escape(str(arguments.model))}[/] on the {device}; log: {log}"
            )
            server = Server(
                arguments.model,
                *(() if has_gpu() else CPU_OPTIONS),
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
    console.print(NEXT)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
