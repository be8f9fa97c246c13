"""Types of arguments of the scripts: numbers within bounds, which argparse refuses with the option's name otherwise."""

import argparse
from collections.abc import Callable
from typing import TypeVar

Number = TypeVar("Number", int, float)


def within(kind: Callable[[str], Number], least: Number, most: Number) -> Callable[[str], Number]:
    """Return a type of numbers from `least` to `most`; NaN is none."""

    def read(text: str) -> Number:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(f"got '{text}', expected {least} to {most}")
        return value

    return read


def several(one: Callable[[str], Number]) -> Callable[[str], tuple[Number, ...]]:
    """Return a type of numbers with commas between them, each as `one` reads it."""
    return lambda text: tuple(one(part) for part in text.split(","))
