"""What the commands share: options as dataclasses, arguments that several take, and how bad input is reported."""

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import typer

BAD_INPUT = 2
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


def check_output(output: Path, force: bool) -> None:
    """Raise `ValueError` for a folder to write that holds something already, unless `force` says to write into it."""
    if output.is_file() or (not force and output.is_dir() and any(output.iterdir())):
        raise ValueError(f"{output} exists and is not an empty folder, choose another or give --force")


def check_training(minutes: float | None, eval_per_category: int) -> None:
    """Raise `ValueError` for a length or an evaluation that a training recipe cannot have."""
    if minutes is not None and not minutes > 0.0:
        raise ValueError(f"--minutes: got {minutes}, expected more than 0")
    if eval_per_category < 0:
        raise ValueError(f"--eval-per-category: got {eval_per_category}, expected 0 or more")


@contextmanager
def bad_input_is_one_line() -> Iterator[None]:
    """Turn errors about what the user gave into one line on stderr and exit status 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise typer.Exit(BAD_INPUT) from None
