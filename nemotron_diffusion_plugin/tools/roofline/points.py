"""Measured points: a small JSON file, format in docs/roofline.md."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nemotron_diffusion_plugin.tools.roofline.methods import TITLES

SCHEMA = "nemotron-diffusion/points/1"
MOST = 2**31
"""No context and no concurrency is larger."""
_MOST_TOKENS = 1e12
_FIELDS = {"method", "concurrency", "tokens_per_second", "context", "label"}


@dataclass(frozen=True)
class Point:
    """One measurement: tokens per second of all requests together, at so many requests and cached tokens each."""

    method: str
    concurrency: int
    tokens_per_second: float
    context: int = 0
    label: str = ""


def read_points(path: Path) -> list[Point]:
    """Read a file of measured points.

    Raises:
        ValueError: not this format; the message names the point and the field.
        OSError: the file cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError(f"{path}: field 'schema': expected '{SCHEMA}'")
    points = content.get("points")
    if not isinstance(points, list):
        raise ValueError(f"{path}: field 'points': expected a list")
    return [_point(f"{path}: points[{index}]", point) for index, point in enumerate(points)]


def points_json(points: Sequence[Point]) -> dict[str, Any]:
    """Return points as the content of such a file."""
    return {"schema": SCHEMA, "points": [asdict(point) for point in points]}


def _point(where: str, point: object) -> Point:
    if not isinstance(point, dict):
        raise ValueError(f"{where}: got {point!r}, expected an object")
    unknown = sorted(set(point) - _FIELDS)
    if unknown:
        raise ValueError(f"{where}: unknown field '{unknown[0]}', expected {', '.join(sorted(_FIELDS))}")
    method, label = point.get("method"), point.get("label", "")
    if not isinstance(method, str) or method not in TITLES:
        raise ValueError(f"{where}: field 'method': got {method!r}, expected one of {', '.join(TITLES)}")
    if not isinstance(label, str):
        raise ValueError(f"{where}: field 'label': got {label!r}, expected a text")
    concurrency = _integer(where, "concurrency", point.get("concurrency"), 1)
    context = _integer(where, "context", point.get("context", 0), 0)
    speed = point.get("tokens_per_second")
    if isinstance(speed, bool) or not isinstance(speed, int | float) or not 0 < speed <= _MOST_TOKENS:
        expected = f"a number > 0 and at most {_MOST_TOKENS:g}"
        raise ValueError(f"{where}: field 'tokens_per_second': got {speed!r}, expected {expected}")
    return Point(method, concurrency, float(speed), context, label)


def _integer(where: str, field: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST:
        expected = f"an integer from {least} to {MOST}"
        raise ValueError(f"{where}: field '{field}': got {value!r}, expected {expected}")
    return value
