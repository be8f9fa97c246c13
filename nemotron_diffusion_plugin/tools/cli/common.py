"""What the commands share: options as dataclasses, and arguments that several take."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import typer

from nemotron_diffusion_plugin.tools.client.names import server_address

DEFAULT_URL = "http://127.0.0.1:8000"
SEEDS = (-(2**63), 2**63 - 1)
MINUTES = (0.001, 1e6)
EVALUATED = (0, 10_000)
"""Bounds of options that several commands take."""
Options = TypeVar("Options")


class WeightType(str, Enum):
    """The dtypes a command can read or write weights in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


def takes(options: type[Options]) -> Callable[[Callable[[Options], None]], Callable[..., None]]:
    """Return a decorator that makes a command of a function of `options`, a dataclass.

    The fields of the dataclass are the command's arguments and options, annotated as typer wants parameters.
    """

    def decorate(function: Callable[[Options], None]) -> Callable[..., None]:
        @wraps(function)
        def command(**given: Any) -> None:
            function(options(**given))

        command.__signature__ = inspect.signature(options)  # type: ignore[attr-defined]
        return command

    return decorate


def shared(options: object, target: type) -> dict[str, Any]:
    """Return the values of `options` that the dataclass `target` has fields for, by name."""
    return {item.name: getattr(options, item.name) for item in fields(target) if hasattr(options, item.name)}


def bounded(*names: str, help: str, bounds: tuple[float, float]) -> Any:
    """Return an option that takes a number within `bounds`, both included; NaN never is."""
    least, most = bounds

    def check(value: float | None) -> float | None:
        if value is not None and not least <= value <= most:
            raise typer.BadParameter(f"got {value}, expected {least} to {most}")
        return value

    return typer.Option(*names, help=help, callback=check)


def server_option(help: str) -> Any:
    """Return the option `--url`, which takes the address of a server."""

    def check(value: str | None) -> str | None:
        try:
            return None if value is None else server_address(value)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return typer.Option("--url", help=help, callback=check)


def numbers(option: str, texts: Sequence[str]) -> tuple[int, ...]:
    """Return the different whole numbers of comma-separated texts, in order of size.

    Raises `ValueError` for anything else.
    """
    found = set()
    for text in ",".join(texts).split(","):
        if not text.strip().isdecimal():
            raise ValueError(
                f"{option}: got '{text.strip()}', expected whole numbers with commas between them"
            )
        found.add(int(text))
    return tuple(sorted(found))


def text_of(name: str, text: str) -> str:
    """Return a text of the command line; raises `ValueError` for bytes that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name}: got bytes that are not UTF-8, expected text in UTF-8") from None
    return text


def check_checkpoint(name: str, folder: Path) -> None:
    """Raise `ValueError` for what is not a checkpoint folder at all."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"{name}: got '{folder}', expected a checkpoint folder, with its config.json")


def check_output(output: Path, force: bool) -> None:
    """Raise `ValueError` for a folder to write that holds something already, unless `force` says to write into it."""
    if output.is_file() or (not force and output.is_dir() and any(output.iterdir())):
        raise ValueError(f"{output} exists and is not an empty folder, choose another or give --force")
