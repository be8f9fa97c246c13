"""The command line `nemotron-diffusion`: one module per command, torch and engines imported when a command
runs.
"""

from typing import Annotated

import typer

from nemotron_diffusion_plugin import __version__
from nemotron_diffusion_plugin.tools.cli.bench import bench
from nemotron_diffusion_plugin.tools.cli.commands import Commands
from nemotron_diffusion_plugin.tools.cli.demo import demo
from nemotron_diffusion_plugin.tools.cli.doctor import doctor
from nemotron_diffusion_plugin.tools.cli.generate import generate
from nemotron_diffusion_plugin.tools.cli.make_checkpoint import make_checkpoint
from nemotron_diffusion_plugin.tools.cli.roofline import roofline
from nemotron_diffusion_plugin.tools.cli.train_eagle3 import train_eagle3
from nemotron_diffusion_plugin.tools.cli.train_tiny import train_tiny
from nemotron_diffusion_plugin.tools.cli.watch import watch
from nemotron_diffusion_plugin.tools.errors import STATUSES

app = typer.Typer(
    cls=Commands,
    name="nemotron-diffusion",
    help="Try, build, train and check Nemotron-Labs-Diffusion checkpoints, and watch and measure their servers.",
    epilog=STATUSES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"nemotron-diffusion {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and end.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    """The options before a command."""


app.command()(generate)
app.command()(make_checkpoint)
app.command()(train_tiny)
app.command()(train_eagle3)
app.command()(doctor)
app.command()(demo)
app.command()(roofline)
app.command()(watch)
app.command()(bench)
