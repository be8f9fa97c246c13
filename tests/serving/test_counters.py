"""The counters' names, which dashboards and the demo rely on."""

from __future__ import annotations

from nemotron_diffusion_plugin.serving import counters
from nemotron_diffusion_plugin.tools.client.counters import ModeCounters, parse_counters


def test_the_command_line_reads_what_servers_write() -> None:
    samples: dict[str, int] = {}
    for value, kind in enumerate(counters.KINDS, start=1):
        labels = ("some model", "diffusion", kind)
        samples[_sample(counters.FORWARDS, counters.FORWARDS_LABELS, labels)] = value
    for value, name in enumerate(counters.PER_MODE, start=10):
        samples[_sample(name, counters.PER_MODE_LABELS, ("some model", "diffusion"))] = value
    page = "\n".join(f"{sample} {value}.0" for sample, value in samples.items())
    assert parse_counters(page, "diffusion") == ModeCounters(
        draft_forwards=2,
        denoise_forwards=3,
        verify_forwards=4,
        generated_tokens=11,
        cycles=12,
        accepted_drafts=13,
    )


def _sample(name: str, labels: tuple[str, ...], values: tuple[str, ...]) -> str:
    shown = ",".join(f'{label}="{value}"' for label, value in zip(labels, values, strict=True))
    return f"{counters.PREFIX}{name}_total{{{shown}}}"
