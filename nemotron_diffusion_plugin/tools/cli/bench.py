"""`nemotron-diffusion bench`: measure the ways to decode against each other."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from nemotron_diffusion_plugin.assets import BUNDLED_CHECKPOINT
from nemotron_diffusion_plugin.tools.bench.data import Source, open_source
from nemotron_diffusion_plugin.tools.bench.engines import ENGINES, find_engine
from nemotron_diffusion_plugin.tools.bench.errors import BenchError
from nemotron_diffusion_plugin.tools.bench.given import measured_at
from nemotron_diffusion_plugin.tools.bench.methods import DEFAULT_METHODS, ServerKind, find_methods
from nemotron_diffusion_plugin.tools.bench.plots import draw_all
from nemotron_diffusion_plugin.tools.bench.report import report
from nemotron_diffusion_plugin.tools.bench.result import Result
from nemotron_diffusion_plugin.tools.bench.run import Run
from nemotron_diffusion_plugin.tools.bench.servers import Servers
from nemotron_diffusion_plugin.tools.bench.setup import Setup
from nemotron_diffusion_plugin.tools.cli.common import (
    SEEDS,
    bounded,
    check_checkpoint,
    numbers,
    server_option,
    shared,
    takes,
)
from nemotron_diffusion_plugin.tools.client.names import check_model
from nemotron_diffusion_plugin.tools.errors import INTERRUPTED
from nemotron_diffusion_plugin.tools.extras import require
from nemotron_diffusion_plugin.tools.outputs import made

_SECONDS = (1, 1e6)
_MOST_CONCURRENCY = 4096


@dataclass(frozen=True)
class Options:
    """What the command line says; `Setup` is what becomes of it."""

    engine: Annotated[
        str | None, typer.Option(help="vllm or sglang. [default: vllm, or what --url runs]")
    ] = None
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Checkpoint folder or hub name to serve. With --url only for --check: the checkpoint to compare with. "
            "[default: the bundled tiny model, or what --url serves]",
        ),
    ] = None
    methods: Annotated[
        list[str] | None,
        typer.Option(
            help="ar, eagle3, ngram, self_speculation, self_speculation_without_lora, auto, "
            "diffusion@THRESHOLD; with commas between them or repeated. "
            f"[default: {DEFAULT_METHODS}, and eagle3 where --eagle3 is given; with --url those of one server]",
            metavar="METHODS",
        ),
    ] = None
    data: Annotated[
        str,
        typer.Option(
            help="tiny (held-out tasks of the bundled model), a .jsonl with `messages` in each line (`category` and "
            "`answer` optional), a ShareGPT-style .json, or a SPEED-Bench folder."
        ),
    ] = "tiny"
    categories: Annotated[
        list[str] | None,
        typer.Option(help="Some categories of the data; all without.", metavar="CATEGORIES"),
    ] = None
    per_category: Annotated[
        int, typer.Option(help="Prompts of each category for the counts; 0 leaves the counts out.")
    ] = 8
    concurrency: Annotated[
        list[str] | None,
        typer.Option(
            help="Concurrent requests of the timed runs. [default: 1,4,16]; 0 leaves them out.",
            metavar="REQUESTS",
        ),
    ] = None
    requests: Annotated[int, typer.Option(help="Requests of a timed run, or as many as the concurrency.")] = (
        10
    )
    repeats: Annotated[int, typer.Option(help="Timed runs of each method and concurrency.")] = 5
    max_tokens: Annotated[int, typer.Option(help="Most tokens of an answer.")] = 160
    seed: Annotated[int, bounded(help="Decides which prompts are asked, and their order.", bounds=SEEDS)] = 0
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Folder for bench.json, report.md, plots and the servers' logs.",
            writable=True,
        ),
    ] = Path("bench-results")
    url: Annotated[
        str | None,
        server_option("A running server to measure; methods must be of one kind then. Nothing is started."),
    ] = None
    launcher: Annotated[
        str | None,
        typer.Option(
            help="The command that starts a server, up to the model's name. [default: 'vllm serve' or 'python -m "
            "sglang.launch_server --model-path']"
        ),
    ] = None
    server_options: Annotated[
        str, typer.Option(help="Further options of every server, as one text: '--tensor-parallel-size 2'.")
    ] = ""
    eagle3: Annotated[str | None, typer.Option(help="Folder of the Eagle3 head, for the method eagle3.")] = (
        None
    )
    eagle3_drafts: Annotated[int, typer.Option(help="Drafts of a chain of the Eagle3 head.")] = 7
    ngram_drafts: Annotated[int, typer.Option(help="Drafts of the n-gram speculator.")] = 7
    together: Annotated[
        bool,
        typer.Option(
            "--together",
            help="Keep all servers running at once; needs memory for all. Without, each is started in every repeat.",
        ),
    ] = False
    check: Annotated[
        int,
        typer.Option(
            help="Compare so many answers of each mode with the reference decoder: text, tokens, forwards. Needs a "
            "local checkpoint served in float32."
        ),
    ] = 0
    start_timeout: Annotated[
        float, bounded(help="Seconds until a server must be ready.", bounds=_SECONDS)
    ] = 900.0
    request_timeout: Annotated[
        float, bounded(help="Seconds a server may stay silent within a request.", bounds=_SECONDS)
    ] = 600.0


@takes(Options)
def bench(options: Options) -> None:
    """Measure the ways to decode against each other: acceptance, tokens per forward, accuracy, latency, throughput.

    Starts the servers that the methods need, one for all three modes and one for each other speculator, and asks all
    methods the same prompts. A run that was interrupted goes on where it stopped when it is started again with the same
    options.
    """
    require("httpx", "matplotlib", "openai")
    setup, source = _resolve(options)
    output = options.output
    with made(output):
        result = Result.open(output / "bench.json", setup)
        try:
            _measure(result, source, options)
        except BenchError as error:
            if error.log_tail:
                print(error.log_tail.rstrip(), file=sys.stderr)
            raise BenchError(f"{error}{_kept(result, '; ')}") from error
        except KeyboardInterrupt:
            print(f"stopped{_kept(result, '; ')}; start again to go on", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None
        _write_report(result)
    typer.echo(f"{output / 'report.md'}")


def _resolve(options: Options) -> tuple[Setup, Source]:
    """Return what is measured and what is asked; raises ValueError for options that cannot be."""
    find_engine(options.engine or ENGINES[0])
    methods = find_methods(_listed(options.methods) or _default_methods(options))
    concurrency = _concurrencies(options.concurrency)
    source = open_source(options.data, _listed(options.categories) or None, options.seed)
    resolved = {
        "engine": options.engine or ENGINES[0],
        "model": options.model or str(BUNDLED_CHECKPOINT),
        "methods": tuple(method.name for method in methods),
        "categories": source.categories,
        "concurrency": concurrency,
    }
    setup = Setup(**{**shared(options, Setup), **resolved})
    if options.url is not None:
        setup, left_out = measured_at(
            options.url, setup, options.engine, options.model, bool(options.methods)
        )
        if left_out:
            print(f"left out, as they need a server of their own: {', '.join(left_out)}", file=sys.stderr)
    else:
        check_model("--model", setup.model)
        _check_head(setup)
    if setup.check:
        require("torch")
        check_checkpoint("--model", Path(setup.checkpoint or setup.model))
    return setup, source


def _check_head(setup: Setup) -> None:
    if setup.eagle3 is not None:
        check_model("--eagle3", setup.eagle3)
    elif any(method.kind is ServerKind.EAGLE3 for method in setup.chosen()):
        raise ValueError("--methods: eagle3 needs a head, name its folder with --eagle3")


def _default_methods(options: Options) -> list[str]:
    return _listed([DEFAULT_METHODS, "eagle3" if options.eagle3 else ""])


def _measure(result: Result, source: Source, options: Options) -> None:
    console = Console(stderr=True)

    def starting(kind: ServerKind) -> None:
        console.print(f"server for {kind.value}: {options.url or 'starting'}")

    def begin(cell: str) -> None:
        status.update(escape(cell))
        if not console.is_terminal:
            console.print(escape(cell))

    with (
        console.status("") as status,
        Servers(
            result.setup,
            result,
            options.output,
            options.start_timeout,
            on_wait=lambda seconds, line: status.update(f"{seconds:3.0f} s  [dim]{escape(line[:90])}[/]"),
            on_start=starting,
        ) as servers,
    ):
        Run(result, source, servers, options.request_timeout, begin)()


def _kept(result: Result, before: str) -> str:
    """Write the report of an unfinished run, and say where it is; nothing where nothing was measured."""
    if not result.path.exists():
        return ""
    _write_report(result)
    return f"{before}what was measured is kept in {result.path.parent}"


def _write_report(result: Result) -> None:
    """Write the tables and plots of a result beside its file."""
    folder = result.path.parent
    page = report(result, draw_all(result, folder))
    (folder / "report.md").write_text(page, encoding="utf-8")


def _listed(texts: list[str] | None) -> list[str]:
    return [part.strip() for text in texts or [] for part in text.split(",") if part.strip()]


def _concurrencies(texts: list[str] | None) -> tuple[int, ...]:
    found = numbers("--concurrency", texts or ["1,4,16"])
    if found == (0,):
        return ()
    for number in found:
        if not 1 <= number <= _MOST_CONCURRENCY:
            raise ValueError(
                f"--concurrency: got {number}, expected 1 to {_MOST_CONCURRENCY}, or 0 alone for none"
            )
    return found
