"""`nemotron-diffusion watch`: a page that shows an answer appear in the three modes side by side."""

import errno
from typing import Annotated

import typer

from nemotron_diffusion_plugin.tools.cli.common import DEFAULT_URL, bounded, server_option
from nemotron_diffusion_plugin.tools.client.served_model import ServedModel, find_model
from nemotron_diffusion_plugin.tools.errors import describe
from nemotron_diffusion_plugin.tools.watch.server import WatchServer

_ABOUT_THE_PORT = (errno.EADDRINUSE, errno.EACCES)


def watch(
    url: Annotated[str, server_option("Address of the model's server.")] = DEFAULT_URL,
    host: Annotated[
        str, typer.Option(help="Address the page listens on; anybody who reaches it can ask.")
    ] = "127.0.0.1",
    port: Annotated[int, bounded(help="Port of the page; 0 for a free one.", bounds=(0, 65535))] = 8090,
) -> None:
    """Serve a web page that shows one answer appear in the three modes side by side."""
    with _listen(find_model(url), host, port) as server:
        typer.echo(
            f"watching {server.served.name} at {server.served.url}: open {server.url} (Ctrl-C ends it)"
        )
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("ended")


def _listen(served: ServedModel, host: str, port: int) -> WatchServer:
    try:
        return WatchServer(served, host, port)
    except OSError as error:
        wrong = "--port" if error.errno in _ABOUT_THE_PORT else "--host"
        reason = describe(error)
    except UnicodeError:  # what the name of a host cannot be
        wrong, reason = "--host", "not the name of a host"
    raise ValueError(f"cannot listen on {host}:{port}: {reason}; choose another {wrong}")
