"""The pictures of a run; needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nemotron_diffusion_plugin.tools.bench.methods import Method
from nemotron_diffusion_plugin.tools.bench.report import methods_of
from nemotron_diffusion_plugin.tools.bench.result import Result
from nemotron_diffusion_plugin.tools.bench.statistics import PERCENTILES, Spread, percentile
from nemotron_diffusion_plugin.tools.extras import require

_SIZE = (7.0, 4.2)


def draw_all(result: Result, folder: Path) -> list[str]:
    """Draw what the run has measured into `folder` and return the file names.

    Raises:
        ValueError: matplotlib is missing.
        OSError: a file cannot be written.
    """
    require("matplotlib")
    from matplotlib.figure import Figure

    drawn = []
    for name, draw in _PLOTS.items():
        figure = Figure(figsize=_SIZE, layout="constrained")
        if draw(result, figure):
            figure.savefig(folder / f"{name}.png", dpi=120)
            drawn.append(f"{name}.png")
    return drawn


def _speed(result: Result, figure: Any) -> bool:
    """Tokens per second against concurrency, with the least and the most of the repeats."""
    if not result.loads:
        return False
    axes = figure.subplots()
    for method in methods_of(result):
        points = []
        for concurrency in result.setup.concurrency:
            speeds = [load.tokens_per_second for load in result.loads_of(method.name, concurrency)]
            if speeds:
                points.append((concurrency, Spread.of(speeds)))
        if points:
            medians = [spread.median for _, spread in points]
            below = [spread.median - spread.least for _, spread in points]
            above = [spread.most - spread.median for _, spread in points]
            axes.errorbar(
                [c for c, _ in points], medians, [below, above], marker="o", capsize=3, label=method.title
            )
    _against_concurrency(axes, result)
    axes.set_ylabel("tokens per second of all requests")
    axes.legend(fontsize=7)
    return True


def _acceptance(result: Result, figure: Any) -> bool:
    """Acceptance length by category."""
    methods = [m for m in methods_of(result) if m.drafts and m.name in result.counts]
    if not methods:
        return False
    axes = figure.subplots()
    categories = [*result.setup.categories, "all"]
    width = 0.8 / len(methods)
    for index, method in enumerate(methods):
        cells = {**result.counts[method.name], "all": result.total(method.name)}
        heights = [cells[c].acceptance_length if c in cells else 0.0 for c in categories]
        places = [place + (index - (len(methods) - 1) / 2) * width for place in range(len(categories))]
        axes.bar(places, heights, width, label=method.title)
    axes.set_xticks(range(len(categories)), categories, rotation=40, ha="right")
    axes.set_ylabel("acceptance length")
    axes.legend(fontsize=7)
    return True


def _position(result: Result, figure: Any) -> bool:
    """The share of cycles that accept a draft, by its position."""
    rates = {m.title: result.total(m.name).acceptance_by_position for m in methods_of(result) if m.drafts}
    if not any(rates.values()):
        return False
    axes = figure.subplots()
    for title, shares in rates.items():
        if shares:
            axes.plot(range(1, len(shares) + 1), shares, marker=".", label=title)
    axes.set_xlabel("position of the draft")
    axes.set_ylabel("share of cycles that accept it")
    axes.set_ylim(0, 1)
    axes.grid(True, alpha=0.3)
    axes.legend(fontsize=7)
    return True


def _accuracy(result: Result, figure: Any) -> bool:
    """Right answers against tokens per decode forward."""
    points = [(method, result.total(method.name)) for method in methods_of(result)]
    points = [(method, counts) for method, counts in points if counts.accuracy is not None]
    if not points:
        return False
    axes = figure.subplots()
    diffusion = sorted((p for p in points if not p[0].is_lossless), key=lambda p: -p[0].options["threshold"])
    if diffusion:
        axes.plot(
            [counts.tokens_per_decode_forward for _, counts in diffusion],
            [100 * (counts.accuracy or 0) for _, counts in diffusion],
            color="0.7",
            zorder=0,
        )
    for method, counts in points:
        place = (counts.tokens_per_decode_forward, 100 * (counts.accuracy or 0))
        axes.plot(*place, "o" if method.is_lossless else "s", label=method.title)
    axes.set_xlabel("tokens per decode forward")
    axes.set_ylabel("answers right, %")
    axes.margins(0.15)
    axes.grid(True, alpha=0.3)
    axes.legend(fontsize=7, loc="lower left")
    return True


def _latency(result: Result, figure: Any) -> bool:
    """Percentiles of the time to the first text and of the time between events."""
    if not result.loads:
        return False
    panels = figure.subplots(1, 2)
    values: tuple[tuple[str, Callable[[Method, int, int], list[float]]], ...] = (
        ("time to first text, ms", lambda m, c, share: [percentile(_firsts(result, m, c), share)]),
        ("time between events, ms", lambda m, c, share: _gaps(result, m, c, share)),
    )
    for axes, (title, read) in zip(panels, values, strict=True):
        for index, method in enumerate(methods_of(result)):
            for style, share in zip(("-", "--", ":"), PERCENTILES, strict=True):
                measured = [c for c in result.setup.concurrency if _firsts(result, method, c)]
                heights = [1000 * Spread.of(read(method, c, share)).median for c in measured]
                label = method.title if share == PERCENTILES[0] else None
                axes.plot(measured, heights, style, color=f"C{index % 10}", marker=".", label=label)
        _against_concurrency(axes, result)
        axes.set_title(f"{title}: p50 solid, p90 dashed, p99 dotted", fontsize=7)
    panels[0].legend(fontsize=6)
    return True


def _against_concurrency(axes: Any, result: Result) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(result.setup.concurrency, [str(c) for c in result.setup.concurrency])
    axes.set_xlabel("concurrent requests")
    axes.grid(True, alpha=0.3)


def _firsts(result: Result, method: Method, concurrency: int) -> list[float]:
    return [value for load in result.loads_of(method.name, concurrency) for value in load.first]


def _gaps(result: Result, method: Method, concurrency: int, share: int) -> list[float]:
    return [load.gap_percentiles[f"p{share}"] for load in result.loads_of(method.name, concurrency)]


_PLOTS: dict[str, Callable[[Result, Any], bool]] = {
    "tokens-per-second": _speed,
    "acceptance-length": _acceptance,
    "acceptance-by-position": _position,
    "accuracy": _accuracy,
    "latency": _latency,
}
