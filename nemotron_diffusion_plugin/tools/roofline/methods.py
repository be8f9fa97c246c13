"""The ways to decode, as cycles of forwards.

tokens per second = concurrency * tokens per cycle / sum of the forwards' floor times.
"""

from dataclasses import dataclass, replace

from nemotron_diffusion_plugin.model.forward_cost import Precision, forward_cost
from nemotron_diffusion_plugin.model.hardware import Gpu
from nemotron_diffusion_plugin.model.shapes import ModelShape, Network

EAGLE_DRAFT_VOCAB = 32000

TITLES = {
    "ar": "AR",
    "eagle3": "Eagle3",
    "self_speculation": "self-speculation",
    "one_forward": "one forward",
    "quadratic": "quadratic",
    "diffusion": "diffusion",
}


@dataclass(frozen=True)
class Forward:
    """One forward of a cycle: what runs, with how many query rows per request."""

    name: str
    network: Network
    rows: int


@dataclass(frozen=True)
class Method:
    """A way to decode: its name (a key of `TITLES`), tokens per cycle and request, and the forwards of a cycle."""

    name: str
    tokens: float
    forwards: tuple[Forward, ...]

    def cycle_time(self, context: int, concurrency: int, precision: Precision, gpu: Gpu) -> float:
        """Return the least seconds of one cycle of the whole batch."""
        costs = (forward_cost(f.network, f.rows, context, concurrency, precision) for f in self.forwards)
        return sum(cost.floor_time(gpu) for cost in costs)

    def tokens_per_second(self, context: int, concurrency: int, precision: Precision, gpu: Gpu) -> float:
        """Return the most tokens per second of the whole batch."""
        return concurrency * self.tokens / self.cycle_time(context, concurrency, precision, gpu)


@dataclass(frozen=True)
class Assumptions:
    """What the ceilings rest on besides shapes and hardware.

    acceptance: tokens per draft and verify cycle of self-speculation, the bonus included (AL).
    eagle_acceptance, eagle_drafts, eagle_passes: AL of Eagle3, drafts verified per cycle, and passes of its head per
        cycle. One pass is the least that drafting can cost, so the ceiling that is kindest to Eagle3; a chain takes one
        pass per draft.
    tpf: tokens per forward of diffusion, commit forwards included; None leaves diffusion out.
    lora_rank: rank of a drafter LoRA applied beside o_proj in the draft forward; 0 where it is merged into a second
        o_proj, which costs memory but no more bytes per forward.
    """

    acceptance: float = 6.82
    eagle_acceptance: float = 2.75
    eagle_drafts: int = 3
    eagle_passes: int = 1
    tpf: float | None = None
    block_size: int = 32
    lora_rank: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.block_size <= 4096:
            raise ValueError(f"--block-size: got {self.block_size}, expected 2 to 4096")
        if not 1 <= self.eagle_drafts <= 4096:
            raise ValueError(f"--eagle-drafts: got {self.eagle_drafts}, expected 1 to 4096")
        if not 1 <= self.eagle_passes <= self.eagle_drafts:
            expected = f"1 to {self.eagle_drafts} (--eagle-drafts)"
            raise ValueError(f"--eagle-passes: got {self.eagle_passes}, expected {expected}")
        if not 0 <= self.lora_rank <= 4096:
            raise ValueError(f"--lora-rank: got {self.lora_rank}, expected 0 to 4096")
        if not 1.0 <= self.acceptance <= self.block_size:
            expected = f"1 to {self.block_size} (--block-size)"
            raise ValueError(f"--acceptance: got {self.acceptance}, expected {expected}")
        if not 1.0 <= self.eagle_acceptance <= self.eagle_drafts + 1:
            expected = f"1 to {self.eagle_drafts + 1} (--eagle-drafts and the bonus)"
            raise ValueError(f"--eagle-acceptance: got {self.eagle_acceptance}, expected {expected}")
        if self.tpf is not None and not 0.0 < self.tpf <= self.block_size / 2:
            most = f"{self.block_size / 2:g} (a block in one denoise and one commit forward)"
            raise ValueError(f"--tpf: got {self.tpf}, expected more than 0 and at most {most}")


def methods(shape: ModelShape, assumed: Assumptions) -> list[Method]:
    """Return all methods on one model, diffusion only where its TPF is assumed.

    `one_forward` has 2 * block rows: the drafts being verified and one block of masks, the least with which a cycle can
    both verify and draft; no such form is published. `quadratic` is the published form with a block of masks behind
    every draft, block * (block + 1) rows (docs/model.md, 3.4).
    """
    network, block = shape.network, assumed.block_size
    draft = replace(network, layers=network.layers + _lora(shape, assumed.lora_rank))
    found = [
        Method("ar", 1.0, (Forward("decode", network, 1),)),
        Method("eagle3", assumed.eagle_acceptance, _eagle3(shape, assumed)),
        Method(
            "self_speculation",
            assumed.acceptance,
            (Forward("draft", draft, block), Forward("verify", network, block)),
        ),
        Method("one_forward", assumed.acceptance, (Forward("cycle", network, 2 * block),)),
        Method("quadratic", assumed.acceptance, (Forward("cycle", network, block * (block + 1)),)),
    ]
    if assumed.tpf is not None:
        found.append(Method("diffusion", assumed.tpf, (Forward("denoise or commit", network, block),)))
    return found


def eagle3_head(shape: ModelShape, fuse: bool) -> Network:
    """Return an Eagle3 head of the usual form for this model; `fuse` adds the matrix that joins three hidden states.

    One decoder layer as wide as the model's whose q, k and v read embedding and hidden state side by side, and an
    output head over 32000 tokens. The joining matrix runs once per cycle.
    """
    hidden, width, kv_width = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = 2 * hidden * (width + 2 * kv_width) + width * hidden
    return Network(
        layers=attention + 3 * hidden * shape.intermediate + (3 * hidden * hidden if fuse else 0),
        head=min(EAGLE_DRAFT_VOCAB, shape.vocab) * hidden,
        hidden=hidden,
        kv=2 * kv_width,
        attention=4 * width,
    )


def _eagle3(shape: ModelShape, assumed: Assumptions) -> tuple[Forward, ...]:
    verified = assumed.eagle_drafts + 1
    first = Forward("draft", eagle3_head(shape, fuse=True), verified)
    later = Forward("draft", eagle3_head(shape, fuse=False), 1)
    return (first, *[later] * (assumed.eagle_passes - 1), Forward("verify", shape.network, verified))


def _lora(shape: ModelShape, rank: int) -> int:
    return shape.layers * rank * (shape.heads * shape.head_dim + shape.hidden)
