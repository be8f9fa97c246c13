"""What the commands share: the bundled checkpoint, and how bad input is reported."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

import typer

BUNDLED_CHECKPOINT = Path(__file__).parent.parent / "assets" / "tiny"
BAD_INPUT = 2


class WeightType(str, Enum):
    """The dtypes a command can read or write weights in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


@contextmanager
def bad_input_is_one_line() -> Iterator[None]:
    """Turn errors about what the user gave into one line on stderr and exit status 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise typer.Exit(BAD_INPUT) from None
