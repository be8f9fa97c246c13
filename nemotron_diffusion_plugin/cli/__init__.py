"""The command line `nemotron-diffusion`: one module per command, torch and engines imported when a command
runs.
"""

import typer

from .bench import bench
from .demo import demo
from .doctor import doctor
from .generate import generate
from .make_checkpoint import make_checkpoint
from .roofline import roofline
from .train_eagle3 import train_eagle3
from .train_tiny import train_tiny
from .watch import watch

app = typer.Typer(
    name="nemotron-diffusion",
    help="Try, build, train and check Nemotron-Labs-Diffusion checkpoints, and watch and measure their servers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(generate)
app.command()(make_checkpoint)
app.command()(train_tiny)
app.command()(train_eagle3)
app.command()(doctor)
app.command()(demo)
app.command()(roofline)
app.command()(watch)
app.command()(bench)
