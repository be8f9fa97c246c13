"""What a run measures and how: everything that has to be the same for two results to be comparable."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from nemotron_diffusion_plugin.tools.bench.methods import Method, find_methods

_BOUNDS = {
    "eagle3_drafts": (1, 4096),
    "ngram_drafts": (1, 4096),
    "per_category": (0, 10_000),
    "max_tokens": (1, 10**6),
    "requests": (1, 10**6),
    "repeats": (1, 1000),
    "check": (0, 10_000),
}


@dataclass(frozen=True)
class Setup:
    """One run.

    Attributes:
        model: checkpoint folder or hub name that the servers serve, or the name of what a running one serves.
        url: a running server, instead of servers that the run starts.
        checkpoint: the folder to compare a running server with, by `check`.
        engine_version: of a running server, where it says so.
        launcher: the command before the model's name; None for the engine's own.
        server_options: further options of every server.
        eagle3, eagle3_drafts: the folder of the Eagle3 head, and the drafts of its chain.
        ngram_drafts: drafts of the n-gram speculator.
        together: keep the servers of all methods running at once, so that the repeats of all alternate quickly.
        data, categories, per_category, seed: what is asked for the counts.
        concurrency, requests, repeats: the timed runs; requests of each, at least the concurrency.
        max_tokens: most tokens of an answer.
        synthetic: tokens that each cycle of a kind of server is made to emit on average, by kind. Such servers have no
            weights (load format dummy): only their times mean something.
        ignore_eos: answers end at `max_tokens` only.
        check: prompts of each method that are compared with the reference decoder.
    """

    engine: str
    model: str
    methods: tuple[str, ...]
    categories: tuple[str, ...]
    url: str | None = None
    launcher: str | None = None
    server_options: str = ""
    eagle3: str | None = None
    eagle3_drafts: int = 7
    ngram_drafts: int = 7
    together: bool = False
    data: str = "tiny"
    per_category: int = 8
    seed: int = 0
    max_tokens: int = 160
    concurrency: tuple[int, ...] = (1, 4, 16)
    requests: int = 10
    repeats: int = 5
    check: int = 0
    synthetic: dict[str, float] = field(default_factory=dict)
    ignore_eos: bool = False
    checkpoint: str | None = None
    engine_version: str | None = None

    def __post_init__(self) -> None:
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"--{name.replace('_', '-')}: got {value}, expected {least} to {most}")

    def chosen(self) -> list[Method]:
        """The methods, in the order given."""
        return find_methods(self.methods)

    def requests_at(self, concurrency: int) -> int:
        """Requests of a timed run."""
        return max(self.requests, concurrency)

    def to_json(self) -> dict[str, Any]:
        """Return the setup as it is written to JSON, with lists for tuples."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}
