"""The counters on a server's `/metrics` page: the same names with every engine."""

from dataclasses import dataclass

PREFIX = "nemotron_diffusion:"
"""Stands before every name."""

PER_MODE = {
    "requests": "Requests that produced their first token.",
    "generated_tokens": "Tokens returned to clients, the first one of each request included.",
    "cycles": "Verify forwards with drafts: cycles of self-speculation, blocks of diffusion.",
    "accepted_drafts": "Drafts that a verify forward accepted; blocks of diffusion count none.",
}
PER_MODE_LABELS = ("model_name", "decoding_mode")

KINDS = ("prefill", "draft", "denoise", "verify")
FORWARDS = "forwards"
FORWARDS_HELP = "Forwards by kind and decoding mode, summed over requests."
FORWARDS_LABELS = ("model_name", "decoding_mode", "kind")

ATTENTION = ("causal", "bidirectional")
ENGINE_FORWARDS = "engine_forwards"
ENGINE_FORWARDS_HELP = "Forwards of the whole batch by attention among the new tokens."
ENGINE_FORWARDS_LABELS = ("model_name", "attention")

POLICY_DECISIONS = "policy_decisions"
POLICY_DECISIONS_HELP = "Block lengths chosen for requests in auto, one for each request and step; 1 is AR."
POLICY_DECISIONS_LABELS = ("model_name", "block_size")


@dataclass(frozen=True)
class Histogram:
    """A histogram over small whole numbers; `edges` are the upper ends of its buckets, in order."""

    name: str
    help: str
    edges: tuple[int, ...]


HISTOGRAM_LABELS = ("model_name",)
ACCEPTED_IN_CYCLE = Histogram(
    "cycle_accepted_drafts",
    "Drafts accepted by a verify forward; 1 minus the share of a bucket is the acceptance at the next position.",
    tuple(range(32)),
)
STEPS_OF_BLOCK = Histogram(
    "block_denoise_steps",
    "Denoise forwards of a diffusion block.",
    (*range(1, 9), 10, 12, 16, 20, 24, 31),
)
HISTOGRAMS = (ACCEPTED_IN_CYCLE, STEPS_OF_BLOCK)
