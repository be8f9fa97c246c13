"""The tables of a run as Markdown."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemotron_diffusion_plugin.tools.bench.methods import Method, find_method
from nemotron_diffusion_plugin.tools.bench.result import Load, Result
from nemotron_diffusion_plugin.tools.bench.statistics import PERCENTILES, Spread, percentile

_NONE = "–"


def report(result: Result, plots: Sequence[str] = ()) -> str:
    """Return the page of a run: how it was made, its tables, and links to `plots`, file names beside it."""
    parts = [_head(result), *_counts(result), *_loads(result), *(f"![{name}]({name})" for name in plots)]
    return "\n\n".join(part for part in parts if part) + "\n"


def methods_of(result: Result) -> list[Method]:
    """Return the methods of which something is measured, in the order of the setup."""
    measured = {*result.content["counts"], *(load.method for load in result.loads)}
    return [find_method(name) for name in result.setup.methods if name in measured]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _head(result: Result) -> str:
    content, setup = result.content, result.setup
    hardware = content["hardware"]
    gpus = ", ".join(hardware["gpus"]) or "no GPU"
    known = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    where = f"{hardware['cores']} {hardware['machine']} cores, {gpus}"
    memory = "" if setup.url else f" Memory: {hardware['memory_gib']} GiB."
    state = "" if content["finished"] else " **This run is not finished.**"
    lines = [
        f"# {_name(setup.model)} on {setup.engine}, {setup.url or where}",
        f"Model: {setup.model}. "
        + (f"Server: {setup.url}, asked from {where}." if setup.url else "Servers: started by this run."),
        f"Begun {content['started']}, finished {content['finished'] or _NONE}.{state} Versions: {known}."
        + memory,
        f"Data: {setup.data}, seed {setup.seed}; greedy, at most {setup.max_tokens} tokens an answer.",
    ]
    if content["checks"]:
        prompts = sum(check["prompts"] for check in content["checks"].values())
        lines.append(
            f"Compared with the reference decoder: {prompts} answers ({', '.join(content['checks'])}), equal in text, "
            "tokens and forwards."
        )
    commands = [
        f"# {kind}\n{shlex.join(server['command'])}"
        for kind, server in content["servers"].items()
        if server["command"]
    ]
    if commands:
        lines += ["The servers:", "```\n" + "\n".join(commands) + "\n```"]
    return "\n\n".join(lines)


def _name(model: str) -> str:
    """Return the name on a hub, or the last part of a folder's."""
    return Path(model).name if Path(model).is_absolute() or model.count("/") > 1 else model


def _counts(result: Result) -> list[str]:
    methods = [method for method in methods_of(result) if result.counts.get(method.name)]
    if not methods:
        return []
    return [
        "## Counts",
        f"{_asked(result)} Forwards of the served model by one request; those of an Eagle3 head, a smaller network, "
        "are not counted. *Total* counts the prompt's prefill as one forward. *Decode* leaves that forward out but "
        "keeps its token: the first token comes with the prefill, so AR shows a little more than 1. Acceptance length: "
        "tokens of a cycle of draft and verify forward, the bonus included, so 1 + accepted drafts / cycles; drafts "
        "accepted past an answer's end count.",
        table(
            ["method", "answers right", "tokens", "decode TPF", "total TPF", "acceptance length"],
            [_count_row(result, method) for method in methods],
        ),
        "### Acceptance length by category",
        _by_category(
            result, [method for method in methods if method.drafts], lambda counts: counts.acceptance_length
        ),
        _against_eagle3(result),
        "### Tokens per decode forward by category",
        _by_category(result, methods, lambda counts: counts.tokens_per_decode_forward),
        "### Answers right by category",
        _by_category(
            result,
            methods,
            lambda counts: None if counts.accuracy is None else 100 * counts.accuracy,
            digits=0,
            unit=" %",
        ),
        *_by_position(result, methods),
    ]


def _asked(result: Result) -> str:
    most = result.setup.per_category
    fewest = {
        category: min(cells[category].requests for cells in result.counts.values() if category in cells)
        for category in result.setup.categories
        if any(category in cells for cells in result.counts.values())
    }
    fewer = [f"{category} {count}" for category, count in fewest.items() if count < most]
    but = f", but of {', '.join(fewer)}: the data has no more" if fewer else ""
    return f"{most} prompts of each category{but}."


def _count_row(result: Result, method: Method) -> list[str]:
    counts = result.total(method.name)
    return [
        method.title,
        _NONE if counts.accuracy is None else f"{100 * counts.accuracy:.1f} % of {counts.checked}",
        str(counts.tokens),
        f"{counts.tokens_per_decode_forward:.2f}",
        f"{counts.tokens_per_forward:.2f}",
        f"{counts.acceptance_length:.2f}" if method.drafts else _NONE,
    ]


def _by_category(
    result: Result, methods: Sequence[Method], value: Any, digits: int = 2, unit: str = ""
) -> str:
    if not methods:
        return "No method of this run drafts."
    counts = result.counts

    def text(cell: Any) -> str:
        number = None if cell is None else value(cell)
        return _NONE if number is None else f"{number:.{digits}f}{unit}"

    rows = [
        [category, *(text(counts[method.name].get(category)) for method in methods)]
        for category in result.setup.categories
    ]
    rows.append(["all", *(text(result.total(method.name)) for method in methods)])
    return table(["category", *(method.title for method in methods)], rows)


def _against_eagle3(result: Result) -> str:
    """Say where self-speculation with the LoRA accepts more than Eagle3 and where it does not; empty without both."""
    ours, theirs = (result.counts.get(name, {}) for name in ("self_speculation", "eagle3"))
    both = [category for category in result.setup.categories if category in ours and category in theirs]
    if not both:
        return ""
    behind = [c for c in both if ours[c].acceptance_length <= theirs[c].acceptance_length]
    where = f"in every category but {', '.join(behind)}" if behind else "in every category"
    return (
        f"Self-speculation with the LoRA has a longer acceptance length than Eagle3 with {result.setup.eagle3_drafts} "
        f"drafts {where}. A cycle of self-speculation is two forwards of the model, one of Eagle3 is one forward and "
        f"{result.setup.eagle3_drafts} passes of its head."
    )


def _by_position(result: Result, methods: Sequence[Method]) -> list[str]:
    rates = {
        method.title: result.total(method.name).acceptance_by_position for method in methods if method.drafts
    }
    longest = max((len(rate) for rate in rates.values()), default=0)
    if not longest:
        return []
    shown = [place for place in (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 31) if place <= longest]
    rows = [
        [title, *(f"{rate[place - 1]:.2f}" if place <= len(rate) else _NONE for place in shown)]
        for title, rate in rates.items()
        if rate
    ]
    return [
        "### Share of cycles that accept a draft, by its position",
        table(["method", *(str(place) for place in shown)], rows),
    ]


def _loads(result: Result) -> list[str]:
    loads = result.loads
    if not loads:
        return []
    setup, methods = result.setup, methods_of(result)
    speed, latency = [], []
    for method in methods:
        row = [method.title]
        for concurrency in setup.concurrency:
            mine = result.loads_of(method.name, concurrency)
            row.append(Spread.of([load.tokens_per_second for load in mine]).text() if mine else _NONE)
            if mine:
                first = [1000 * value for load in mine for value in load.first]
                each = [1000 * value for load in mine for value in load.per_token]
                gaps = {
                    name: Spread.of([1000 * load.gap_percentiles[name] for load in mine]).median
                    for name in mine[0].gap_percentiles
                }
                latency.append(
                    [
                        method.title,
                        str(concurrency),
                        _percentiles(first, 0),
                        _percentiles(each, 1),
                        " / ".join(f"{gaps[f'p{share}']:.1f}" for share in PERCENTILES),
                    ]
                )
        speed.append(row)
    order = (
        "all servers running at once"
        if setup.together
        else "one server running at a time, started anew in every repeat"
    )
    names = " / ".join(f"p{share}" for share in PERCENTILES)
    return [
        "## Times",
        f"Tokens per second of all requests: median of {_repeats(loads)} (least–most). {setup.requests} requests "
        f"each, or as many as the concurrency; every repeat goes through all methods, {order}, with other prompts.",
        table(["method", *(f"concurrency {c}" for c in setup.concurrency)], speed),
        f"### Latency in milliseconds, {names}",
        "TTFT: time to the first text. TPOT: time per token after it, by request. ITL: time between events with text, "
        "which may carry several tokens (median over the repeats of each percentile).",
        table(["method", "concurrency", "TTFT", "TPOT", "ITL"], latency),
    ]


def _percentiles(values: Sequence[float], digits: int) -> str:
    if not values:
        return _NONE
    return " / ".join(f"{percentile(values, share):.{digits}f}" for share in PERCENTILES)


def _repeats(loads: Sequence[Load]) -> str:
    """Say how many repeats the timed cells have, which differ in a run that is not finished."""
    cells = Counter((load.method, load.concurrency) for load in loads)
    least, most = min(cells.values()), max(cells.values())
    return f"{most} repeat{'s' * (most > 1)}" if least == most else f"{least} to {most} repeats"
