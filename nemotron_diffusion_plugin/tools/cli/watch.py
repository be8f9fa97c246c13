"""`nemotron-diffusion watch`: a page that shows an answer appear in the three modes side by side."""

from typing import Annotated

import typer

from nemotron_diffusion_plugin.tools.cli.common import bad_input_is_one_line
from nemotron_diffusion_plugin.tools.client.served_model import find_model
from nemotron_diffusion_plugin.tools.watch.server import WatchServer


def watch(
    url: Annotated[
        str, typer.Option(help="Address of the model's server, without /v1.")
    ] = "http://127.0.0.1:8000",
    host: Annotated[
        str, typer.Option(help="Address the page listens on; anybody who reaches it can ask.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0 for a free one.")] = 8090,
) -> None:
    """Serve a web page that shows one answer appear in the three modes side by side."""
    with bad_input_is_one_line():
        served = find_model(url)
        try:
            server = WatchServer(served, host, port)
        except OSError as error:
            raise OSError(
                f"cannot listen on {host}:{port}: {error.strerror}; choose another --port"
            ) from error
    with server:
        typer.echo(
            f"watching {server.served.name} at {server.served.url}: open {server.url} (Ctrl-C ends it)"
        )
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("ended")
