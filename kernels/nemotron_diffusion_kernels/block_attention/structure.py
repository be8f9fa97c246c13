"""What the new tokens of a request that is not causal see of each other."""

from dataclasses import dataclass
from enum import IntEnum


class Form(IntEnum):
    """How the new tokens are grouped."""

    ONE_BLOCK = 0
    BLOCK_CAUSAL = 1
    GROUPED = 2


@dataclass(frozen=True, slots=True)
class Structure:
    """The visibility among the new tokens i, j = 0, 1, ... of a request that is not causal.

    Attributes:
        form: `ONE_BLOCK`: all see all. `BLOCK_CAUSAL`: i sees j where i // B >= j // B, with B the block size (model
            description, 2). `GROUPED`: groups of a draft and B masks; a draft sees the drafts up to its own, a
            mask sees these drafts and its whole group (docs/model.md, 3.4).
        block_size: B, at least 1; not used by `ONE_BLOCK`.
    """

    form: Form
    block_size: int = 1

    def __post_init__(self) -> None:
        if self.block_size < 1:
            raise ValueError(f"Structure: block_size is {self.block_size}, expected at least 1")


ONE_BLOCK = Structure(Form.ONE_BLOCK)
