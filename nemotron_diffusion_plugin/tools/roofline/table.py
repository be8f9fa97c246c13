"""A roofline as text."""

import math

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nemotron_diffusion_plugin.model.forward_cost import KV_BYTES, forward_cost
from nemotron_diffusion_plugin.tools.roofline.methods import TITLES, eagle3_head
from nemotron_diffusion_plugin.tools.roofline.report import CAUTIOUS_COMPUTE, Report, Setting


def draw(report: Report) -> Group:
    """Return the whole roofline: what it is for, forwards, ceilings, free blocks, measured points, assumptions."""
    parts: list[RenderableType] = [_header(report.setting), _forwards(report), _ceilings(report)]
    parts += [_cycles(report), _free(report)]
    if report.measured:
        parts.append(_measured(report))
    return Group(*parts, _footer(report.setting))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", padding=(0, 1))
    for column in columns:
        table.add_column(column, justify="right", no_wrap=column == "method")
    return table


def _header(setting: Setting) -> Text:
    gpu, shape = setting.gpu, setting.shape
    weights = forward_cost(shape.network, 1, 0, 1, setting.precision).weight_bytes
    kv = shape.kv_per_token * KV_BYTES[setting.precision.kv]
    return Text(
        f"{shape.name} on {gpu.name}: one forward reads {weights / 1e9:.2f} GB of weights "
        f"({setting.precision.weights}) and {kv:,.0f} bytes of KV ({setting.precision.kv}) per cached token. "
        f"{gpu.bandwidth:g} TB/s at {setting.efficiency:.0%}, {gpu.tflops:g} TFLOP/s (dense bf16) "
        f"at {setting.compute_efficiency:.0%}.\n"
    )


def _forwards(report: Report) -> Table:
    columns = (
        "context",
        "requests",
        "rows\neach",
        "GB\nread",
        "TFLOP",
        "read\nms",
        "compute\nms",
        "floor\nms",
    )
    table = _table("One forward", *columns)
    for row in report.forwards:
        table.add_row(
            *(str(row.context), str(row.concurrency), str(row.rows)),
            *(f"{row.cost.bytes / 1e9:.2f}", f"{row.cost.flops / 1e12:.3f}"),
            *(f"{row.memory_time * 1e3:.2f}", f"{row.compute_time * 1e3:.2f}"),
            f"{row.floor_time * 1e3:.2f}",
        )
    return table


def _ceilings(report: Report) -> Table:
    names = [method.name for method in report.setting.methods]
    table = _table("At most, tokens per second of all requests", "context", "requests", *_titles(names))
    for row in report.ceilings:
        cells = [f"{row.tokens_per_second[name]:.0f}" for name in names]
        table.add_row(str(row.context), str(row.concurrency), *_if_it_fits(row.fits, cells))
    return table


def _cycles(report: Report) -> Table:
    names = [method.name for method in report.setting.methods]
    table = _table("At least, milliseconds of one cycle", "context", "requests", *_titles(names))
    for row in report.ceilings:
        cells = [f"{row.cycle_time[name] * 1e3:.2f}" for name in names]
        table.add_row(str(row.context), str(row.concurrency), *_if_it_fits(row.fits, cells))
    return table


def _free(report: Report) -> Table:
    cautious = f"with {CAUTIOUS_COMPUTE:.0%} of\nthese FLOP/s"
    columns = ("context", "block", "requests", cautious)
    table = _table("A block costs no more than one row, up to so many requests", *columns)
    for row in report.free:
        table.add_row(
            str(row.context), str(row.block), _requests(row.requests), _requests(row.cautious_requests)
        )
    return table


def _measured(report: Report) -> Table:
    table = _table("Measured", "method", "context", "requests", "tok/s", "at most", "of it", "label")
    for row in report.measured:
        point = row.point
        table.add_row(
            *(Text(TITLES[point.method]), str(point.context), str(point.concurrency)),
            *(f"{point.tokens_per_second:.0f}", f"{row.ceiling:.0f}"),
            Text(f"{row.share:.0%}", style="red" if row.share > 1.0 else ""),
            Text(point.label),
        )
    return table


def _footer(setting: Setting) -> Text:
    assumed, block = setting.assumed, setting.assumed.block_size
    head = forward_cost(eagle3_head(setting.shape, fuse=True), 1, 0, 1, setting.precision).weight_bytes / 1e9
    lora = (
        f"drafter LoRA of rank {assumed.lora_rank} applied beside o_proj"
        if assumed.lora_rank
        else "a drafter LoRA is merged"
    )
    lines = [
        "Computed, not measured. Assumed:",
        f"- self-speculation: {assumed.acceptance:g} tokens per cycle, draft and verify of {block} rows; {lora}.",
        f"- one forward: the same tokens in one forward of {2 * block} rows; "
        f"quadratic: of {block * (block + 1)} rows (the published form).",
        f"- Eagle3: {assumed.eagle_acceptance:g} tokens per cycle, {assumed.eagle_drafts} drafts verified, "
        f"a head of {head:.2f} GB, passes of it per cycle: {assumed.eagle_passes}. {_chain(setting)}",
    ]
    if assumed.tpf is not None:
        lines.append(f"- diffusion: {assumed.tpf:g} tokens per forward of {block} rows, commits included.")
    return Text("\n".join(lines))


def _chain(setting: Setting) -> str:
    assumed = setting.assumed
    if assumed.eagle_passes == assumed.eagle_drafts:
        return "That is a chain."
    return f"A chain takes {assumed.eagle_drafts} (--eagle-passes)."


def _titles(names: list[str]) -> list[str]:
    return [TITLES[name].replace("-", "-\n") for name in names]


def _if_it_fits(fits: bool, cells: list[str]) -> list[str]:
    return cells if fits else ["no memory", *["–"] * (len(cells) - 1)]


def _requests(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "any number"
