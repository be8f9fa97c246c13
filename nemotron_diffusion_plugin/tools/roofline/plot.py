"""A roofline as a picture, where matplotlib is installed."""

from pathlib import Path

from nemotron_diffusion_plugin.tools.extras import require
from nemotron_diffusion_plugin.tools.outputs import new_file
from nemotron_diffusion_plugin.tools.roofline.methods import TITLES
from nemotron_diffusion_plugin.tools.roofline.report import Report


def plot(report: Report, path: Path) -> None:
    """Draw tokens per second against concurrency into `path`: a panel per context, a line per method, measured points.

    A point is drawn in the panel of its context; contexts that only points have get panels of their own. The ending of
    `path` decides the format.

    Raises:
        ValueError: matplotlib is missing, or does not know the format.
        OSError: the file cannot be written.
    """
    require("matplotlib")
    from matplotlib.figure import Figure

    setting = report.setting
    contexts = sorted({*setting.contexts, *(row.point.context for row in report.measured)})
    measured = [row.point.concurrency for row in report.measured]
    most = max(*setting.concurrencies, *measured, 2)
    figure = Figure(figsize=(5.5 * len(contexts), 4.5), layout="constrained")
    panels = figure.subplots(1, len(contexts), sharey=True, squeeze=False)[0]
    for panel, context in zip(panels, contexts, strict=True):
        requests = [n for n in _steps(most) if setting.fits(context, n)]
        for index, method in enumerate(setting.methods):
            ceilings = [setting.ceiling(method, context, n) for n in requests]
            panel.plot(requests, ceilings, color=f"C{index}", label=f"{TITLES[method.name]}, at most")
            points = [
                r.point
                for r in report.measured
                if (r.point.method, r.point.context) == (method.name, context)
            ]
            if points:
                panel.plot(
                    [point.concurrency for point in points],
                    [point.tokens_per_second for point in points],
                    "o",
                    color=f"C{index}",
                    label=f"{TITLES[method.name]}, measured",
                )
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xlabel("concurrent requests")
        panel.set_title(
            f"{setting.shape.name} on {setting.gpu.name}, {context} cached tokens each", fontsize=10
        )
        panel.grid(True, which="major", alpha=0.3)
    panels[0].set_ylabel("tokens per second of all requests")
    panels[0].legend(fontsize=8)
    with new_file(path) as part:
        figure.savefig(part, dpi=150)


def _steps(most: int) -> list[int]:
    """Whole numbers from 1 to `most`, about 16 to each doubling."""
    doublings = range(16 * most.bit_length() + 1)
    return sorted({n for step in doublings if (n := round(2 ** (step / 16))) <= most} | {most})
