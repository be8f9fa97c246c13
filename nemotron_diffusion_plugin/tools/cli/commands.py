"""The group of all commands: what it catches, no command has to."""

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from nemotron_diffusion_plugin.tools.errors import errors_in_one_line

_UsageError: Any = (
    typer.BadParameter.__base__
)  # typer names it nowhere, and newer versions bring their own click


class Commands(TyperGroup):
    """Runs a command so that it ends as `tools/errors.py` says, whatever it raises."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # a name of a file may be no text
        with errors_in_one_line():
            try:
                return super().invoke(ctx)
            except _UsageError as error:
                help_of = error.ctx.command_path if error.ctx else self.name
                message = error.format_message().rstrip(".")
                raise ValueError(f"{message}; see {help_of} --help") from None
