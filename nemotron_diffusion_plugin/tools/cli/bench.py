"""`nemotron-diffusion bench`: measure the ways to decode against each other."""

import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from nemotron_diffusion_plugin.assets import BUNDLED_CHECKPOINT
from nemotron_diffusion_plugin.tools.bench.data import Source, open_source
from nemotron_diffusion_plugin.tools.bench.engines import find_engine
from nemotron_diffusion_plugin.tools.bench.errors import BenchError
from nemotron_diffusion_plugin.tools.bench.methods import DEFAULT_METHODS, ServerKind, find_methods
from nemotron_diffusion_plugin.tools.bench.plots import draw_all
from nemotron_diffusion_plugin.tools.bench.report import report
from nemotron_diffusion_plugin.tools.bench.result import Result
from nemotron_diffusion_plugin.tools.bench.run import Run
from nemotron_diffusion_plugin.tools.bench.servers import Servers
from nemotron_diffusion_plugin.tools.bench.setup import Setup
from nemotron_diffusion_plugin.tools.cli.common import bad_input_is_one_line, numbers, shared, takes
from nemotron_diffusion_plugin.tools.plotting import require_matplotlib

DIED, INTERRUPTED = 1, 130
_MOST_CONCURRENCY = 4096


@dataclass(frozen=True)
class Options:
    """What the command line says; `Setup` is what becomes of it."""

    engine: Annotated[str, typer.Option(help="vllm or sglang.")] = "vllm"
    model: Annotated[str, typer.Option("--model", "-m", help="Checkpoint folder or hub name to serve.")] = (
        str(BUNDLED_CHECKPOINT)
    )
    methods: Annotated[
        list[str] | None,
        typer.Option(
            help="ar, eagle3, ngram, self_speculation, self_speculation_without_lora, auto, "
            "diffusion@THRESHOLD; with commas between them or repeated. "
            f"[default: {DEFAULT_METHODS}, and eagle3 where --eagle3 is given]",
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
    seed: Annotated[int, typer.Option(help="Decides which prompts are asked, and their order.")] = 0
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder for bench.json, report.md, plots and the servers' logs."),
    ] = Path("bench-results")
    url: Annotated[
        str | None,
        typer.Option(
            help="A running server to measure; methods must be of one kind then. Nothing is started."
        ),
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
    start_timeout: Annotated[float, typer.Option(help="Seconds until a server must be ready.")] = 900.0
    request_timeout: Annotated[
        float, typer.Option(help="Seconds a server may stay silent within a request.")
    ] = 600.0


@takes(Options)
def bench(options: Options) -> None:
    """Measure the ways to decode against each other: acceptance, tokens per forward, accuracy, latency, throughput.

    Starts the servers that the methods need, one for all three modes and one for each other speculator, and asks all
    methods the same prompts. A run that was interrupted goes on where it stopped when it is started again with the same
    options.
    """
    output = options.output
    with bad_input_is_one_line():
        setup, source = _resolve(options)
        result = Result.open(output / "bench.json", setup)
        _require_client()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    kept = f"What was measured is kept in {output}"
    try:
        with bad_input_is_one_line():
            _measure(result, source, options)
    except BenchError as error:
        if error.log_tail:
            print(error.log_tail.rstrip(), file=sys.stderr)
        _give_up(result, f"error: {' '.join(str(error).split())}. {kept}", DIED)
    except KeyboardInterrupt:
        _give_up(result, f"Stopped. {kept}; start again to go on.", INTERRUPTED)
    _write_report(result)
    typer.echo(f"{output / 'report.md'}")


def _resolve(options: Options) -> tuple[Setup, Source]:
    """Return what is measured and what is asked; raises ValueError for options that cannot be."""
    chosen = find_methods(
        _listed(options.methods) or _listed([DEFAULT_METHODS, "eagle3" if options.eagle3 else ""])
    )
    find_engine(options.engine)
    source = open_source(options.data, _listed(options.categories) or None, options.seed)
    resolved = {
        "methods": tuple(method.name for method in chosen),
        "categories": source.categories,
        "concurrency": _concurrencies(options.concurrency),
    }
    setup = Setup(**{**shared(options, Setup), **resolved})
    kinds = {method.kind.value for method in chosen}
    if setup.url is not None and len(kinds) > 1:
        raise ValueError(
            f"--url: one server cannot run {', '.join(sorted(kinds))}; measure them with several runs, or without --url"
        )
    if "eagle3" in kinds and setup.eagle3 is None and setup.url is None:
        raise ValueError("--methods: eagle3 needs a head, name its folder with --eagle3")
    return setup, source


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


def _give_up(result: Result, message: str, status: int) -> NoReturn:
    if result.path.exists():
        _write_report(result)
    print(message, file=sys.stderr)
    raise typer.Exit(status) from None


def _write_report(result: Result) -> None:
    """Write the tables and plots of a result beside its file."""
    folder = result.path.parent
    with bad_input_is_one_line():
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


def _require_client() -> None:
    try:
        import httpx  # noqa: F401
        import openai  # noqa: F401
    except ImportError as error:
        raise ValueError(f"{error}: pip install 'nemotron-diffusion-plugin[bench]'") from None
    require_matplotlib("bench")
