"""The plugin's counters on a server's `/metrics` page, and what they say about a request.

The only place outside the engines' folders that names the counters.
"""

import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException

_SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_FORWARDS = "nemotron_diffusion:forwards_total"
_GENERATED = "nemotron_diffusion:generated_tokens_total"
_CYCLES = "nemotron_diffusion:cycles_total"
_ACCEPTED = "nemotron_diffusion:accepted_drafts_total"


@dataclass(frozen=True)
class ModeCounters:
    """Counters of one decoding mode: totals since the server's start, or what was counted between two readings."""

    draft_forwards: int
    denoise_forwards: int
    verify_forwards: int
    generated_tokens: int
    cycles: int
    accepted_drafts: int

    def since(self, earlier: "ModeCounters") -> "ModeCounters":
        """Return what was counted after `earlier` was read."""
        return ModeCounters(
            *(now - before for now, before in zip(self._values(), earlier._values(), strict=True))
        )

    @property
    def forwards(self) -> int:
        """Forwards after the prompt's prefill."""
        return self.draft_forwards + self.denoise_forwards + self.verify_forwards

    @property
    def tokens_per_forward(self) -> float:
        """Tokens emitted per forward (TPF); 0 when there was none."""
        return self.generated_tokens / self.forwards if self.forwards else 0.0

    @property
    def acceptance_length(self) -> float:
        """Mean tokens of a draft and verify cycle, the bonus included; 0 without a cycle that verified drafts."""
        return 1 + self.accepted_drafts / self.cycles if self.cycles else 0.0

    def _values(self) -> tuple[int, ...]:
        return (
            self.draft_forwards,
            self.denoise_forwards,
            self.verify_forwards,
            self.generated_tokens,
            self.cycles,
            self.accepted_drafts,
        )


def has_metrics(url: str) -> bool:
    """Return whether the server has a `/metrics` page, which SGLang makes only when asked to.

    Raises:
        OSError: the server does not answer.
    """
    try:
        _page(url)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return False
        raise
    return True


def read_counters(url: str, decoding_mode: str) -> ModeCounters:
    """Read the counters of one mode from the server at `url`.

    Raises:
        ValueError: the page has no such counters, so the server does not serve this model with this plugin.
        OSError: the server does not answer.
    """
    return parse_counters(_page(url), decoding_mode)


def read_settled_counters(url: str, decoding_mode: str, patience: float = 2.0) -> ModeCounters:
    """Read the counters once they stand still: an engine may count its last step just after it answered."""
    previous = read_counters(url, decoding_mode)
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        time.sleep(0.1)
        current = read_counters(url, decoding_mode)
        if current == previous:
            break
        previous = current
    return previous


def parse_counters(page: str, decoding_mode: str) -> ModeCounters:
    """Pick the counters of one mode out of a page in Prometheus' text format, summed over engines and processes.

    Raises:
        ValueError: the page has no such counters.
    """
    totals: dict[tuple[str, str], int] = {}
    for line in page.splitlines():
        sample = _SAMPLE.match(line)
        if sample is None:
            continue
        labels = dict(_LABEL.findall(sample["labels"] or ""))
        if labels.get("decoding_mode") == decoding_mode:
            key = (sample["name"], labels.get("kind", ""))
            totals[key] = totals.get(key, 0) + int(float(sample["value"]))
    if (_GENERATED, "") not in totals:
        raise ValueError(
            f"the server's /metrics page has no {_GENERATED} of decoding mode '{decoding_mode}': "
            "it does not serve Nemotron-Labs-Diffusion with this plugin, or speculates in another way"
        )
    forwards = [totals.get((_FORWARDS, kind), 0) for kind in ("draft", "denoise", "verify")]
    return ModeCounters(*forwards, *(totals.get((name, ""), 0) for name in (_GENERATED, _CYCLES, _ACCEPTED)))


def _page(url: str) -> str:
    address = f"{url.rstrip('/')}/metrics"
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            return str(answer.read().decode(errors="replace"))
    except urllib.error.HTTPError:
        raise
    except (urllib.error.URLError, HTTPException) as error:
        raise ConnectionError(f"{address} does not answer: {getattr(error, 'reason', error)}") from error
