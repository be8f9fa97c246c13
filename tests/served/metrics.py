"""The counters that a server shows on `/metrics`; both engines name those of the plugin alike."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families


class Metrics:
    """The page `/metrics` at one moment."""

    def __init__(self, page: str) -> None:
        self._samples = [
            sample for family in text_string_to_metric_families(page) for sample in family.samples
        ]

    def total(self, name: str, **labels: str) -> float:
        """The sum of all samples of `name` that carry `labels`; raises KeyError where there is none."""
        values = [
            sample.value
            for sample in self._samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        if not values:
            raise KeyError(f"no sample of {name} with {labels}")
        return sum(values)

    def forwards(self, mode: str) -> dict[str, int]:
        """Forwards of a decoding mode by kind."""
        kinds = ("prefill", "draft", "denoise", "verify")
        name = "nemotron_diffusion:forwards_total"
        return {kind: int(self.total(name, decoding_mode=mode, kind=kind)) for kind in kinds}

    def mode(self, name: str, mode: str) -> int:
        """The counter `nemotron_diffusion:{name}_total` of a decoding mode."""
        return int(self.total(f"nemotron_diffusion:{name}_total", decoding_mode=mode))

    def decisions(self) -> dict[int, int]:
        """How often the policy of auto has chosen each block length."""
        name = "nemotron_diffusion:policy_decisions_total"
        return {
            int(sample.labels["block_size"]): int(sample.value)
            for sample in self._samples
            if sample.name == name
        }

    def engine(self, attention: str) -> int:
        """Forwards of the whole batch."""
        return int(self.total("nemotron_diffusion:engine_forwards_total", attention=attention))
