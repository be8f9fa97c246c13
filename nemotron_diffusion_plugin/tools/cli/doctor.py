"""`nemotron-diffusion doctor`: what is installed, what is registered, and whether a checkpoint is sound."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nemotron_diffusion_plugin.assets import BUNDLED_CHECKPOINT
from nemotron_diffusion_plugin.tools.extras import is_installed

if TYPE_CHECKING:
    from nemotron_diffusion_plugin.tools.cli.system_checks import Row


def doctor(
    model: Annotated[
        Path, typer.Argument(help="Checkpoint folder to check; the bundled tiny model by default.")
    ] = BUNDLED_CHECKPOINT,
    engines: Annotated[
        bool, typer.Option(help="Import the installed engines to check registrations and patches.")
    ] = True,
) -> None:
    """Check versions, entry points, patches, GPU and a checkpoint; exit with status 1 when something is
    wrong.
    """
    from nemotron_diffusion_plugin.tools.cli import system_checks

    console = Console()
    failed = 0
    for title, run in (
        ("installation", system_checks.installation),
        ("vLLM", system_checks.vllm if engines else None),
        ("SGLang", system_checks.sglang if engines else None),
        (f"checkpoint {model}", lambda: _checkpoint(model, console)),
    ):
        if run is None:
            continue
        table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
        for column in ("verdict", "check", "detail"):
            table.add_column(column, overflow="fold")
        for name, good, detail in run():
            failed += not good
            verdict = Text("ok", "green") if good else Text("WRONG", "red")
            table.add_row(verdict, Text(name), Text(detail))
        console.print(table)
    console.print(f"[red]{failed} checks failed[/]" if failed else "[green]all checks passed[/]")
    if failed:
        raise typer.Exit(1)


def _checkpoint(model: Path, console: Console) -> "list[Row]":
    if not is_installed("torch"):
        return [("checkpoint", True, "not checked, as torch is not installed")]
    from nemotron_diffusion_plugin.tools.cli.checkpoint_checks import checkpoint

    return checkpoint(model, console)
