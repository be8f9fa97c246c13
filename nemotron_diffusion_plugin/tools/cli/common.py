"""What the commands share: the bundled checkpoint, and how bad input is reported."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

import typer

BUNDLED_CHECKPOINT = Path(__file__).parents[2] / "assets" / "tiny"
BAD_INPUT = 2


class WeightType(str, Enum):
    """The dtypes a command can read or write weights in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


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
