"""How the attention kernel cuts its work."""

from dataclasses import dataclass

MAX_QUERY_LENGTH = 64
_MIN_DOT = 16


@dataclass(frozen=True, slots=True)
class Tiling:
    """Sizes that fix the order of all sums of a row, and with it the row's bits.

    Attributes:
        rows: packed rows (query x head of the group) of one program, a power of two, at least 16.
        keys: keys of one step of a program, a power of two, at least 16.
        split_length: tokens of one split, a multiple of `keys`.
        warps: warps of a program.
        stages: depth of the software pipeline.
    """

    rows: int
    keys: int
    split_length: int
    warps: int
    stages: int

    def __post_init__(self) -> None:
        for name, size in (("rows", self.rows), ("keys", self.keys)):
            if size < _MIN_DOT or size & (size - 1):
                raise ValueError(f"Tiling: {name} is {size}, expected a power of two from {_MIN_DOT} on")
        if self.split_length < self.keys or self.split_length % self.keys:
            raise ValueError(
                f"Tiling: split_length is {self.split_length}, expected a positive multiple of keys ({self.keys})"
            )


def default_tiling(max_query_length: int, group: int, bytes_per_value: int) -> Tiling:
    """Return the tiling for a query length, query heads per KV head and bytes of a query value.

    Chosen by reading the registers and shared memory of the compiled kernel (sm_90), not yet tuned on a GPU.
    """
    rows = max(_MIN_DOT, next_power_of_two(max_query_length * group))
    if (
        bytes_per_value > 2
    ):  # no tensor cores: products of float32 stay float32, and larger tiles spill registers
        return Tiling(min(32, rows), keys=16, split_length=512, warps=4, stages=2)
    rows = min(128, rows)
    return Tiling(rows, keys=64, split_length=512, warps=8 if rows == 128 else 4, stages=3)


def next_power_of_two(value: int) -> int:
    """Return the least power of two that is not below a positive `value`."""
    return 1 << (value - 1).bit_length()
