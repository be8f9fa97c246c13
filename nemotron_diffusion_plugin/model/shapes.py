"""Shapes of dense decoders, and what one forward of them has to read and to compute, as counts of values."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Network:
    """What one forward reads and computes, whatever the dtypes are.

    `layers` and `head` are values in the matrices every row is multiplied with, `hidden` values of one embedding row,
    `kv` values cached per token, `attention` FLOPs of one row with one cached token.
    """

    layers: int
    head: int
    hidden: int
    kv: int
    attention: int


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a Llama-like decoder with grouped-query attention and SwiGLU (docs/model.md, 1.1 and 1.3)."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool = False

    @property
    def layer_matrices(self) -> int:
        """Values in the seven matrices of all layers."""
        attention = 2 * self.hidden * (self.heads + self.kv_heads) * self.head_dim
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head(self) -> int:
        """Values of the output head, read whole by every forward."""
        return self.vocab * self.hidden

    @property
    def embedding(self) -> int:
        """Values of the embedding table, of which a forward reads one row per token; 0 where it is the head itself."""
        return 0 if self.tied else self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters of the model, norms included."""
        norms = (2 * self.layers + 1) * self.hidden
        return self.layer_matrices + self.head + self.embedding + norms

    @property
    def kv_per_token(self) -> int:
        """Values cached per token: keys and values of all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim

    @property
    def network(self) -> Network:
        """The counts of one forward; norms (0.004 % of the 8B model) are left out."""
        return Network(
            layers=self.layer_matrices,
            head=self.head,
            hidden=self.hidden,
            kv=self.kv_per_token,
            attention=4 * self.layers * self.heads * self.head_dim,
        )


_MOST = 10**9  # of any size in a config.json

PUBLISHED = {
    "3B": ModelShape("3B", 3072, 9216, 26, 32, 8, 128, 131072),
    "8B": ModelShape("8B", 4096, 14336, 34, 32, 8, 128, 131072),
    "14B": ModelShape("14B", 5120, 16384, 40, 32, 8, 128, 131072),
}


def find_shape(model: str) -> ModelShape:
    """Return the shape of a published model by its name, or of a checkpoint folder by its config.json.

    Raises:
        ValueError: neither a known name nor a folder, or a config.json this arithmetic does not cover.
        OSError: the folder's config.json cannot be read.
    """
    if model.upper() in PUBLISHED:
        return PUBLISHED[model.upper()]
    folder = Path(model)
    if not folder.is_dir():
        known = ", ".join(PUBLISHED)
        raise ValueError(f"--model: got '{model}', expected {known} or a folder with a config.json")
    return read_shape(folder)


def read_shape(folder: Path) -> ModelShape:
    """Return the shape that `folder/config.json` describes.

    Raises:
        ValueError: no JSON object, a missing or impossible size, or a model that is not dense.
        OSError: the file cannot be read.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected a JSON object with the sizes of the model")
    experts = [name for name, value in config.items() if "experts" in name and value]
    if experts:
        raise ValueError(f"{path}: field '{experts[0]}': a mixture of experts, expected a dense model")

    def size(field: str, default: int | None = None) -> int:
        return _size(path, config, field, default)

    hidden, heads = size("hidden_size"), size("num_attention_heads")
    kv_heads = size("num_key_value_heads", heads)
    if heads % kv_heads:
        raise ValueError(
            f"{path}: field 'num_key_value_heads': got {kv_heads}, expected a divisor of {heads}"
        )
    return ModelShape(
        name=folder.resolve().name,
        hidden=hidden,
        intermediate=size("intermediate_size"),
        layers=size("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=size("head_dim", hidden // heads),
        vocab=size("vocab_size"),
        tied=config.get("tie_word_embeddings") is True,
    )


def _size(path: Path, config: dict[str, Any], field: str, default: int | None) -> int:
    value = config.get(field)
    if value is None:
        value = default
    if value is None:
        raise ValueError(f"{path}: field '{field}': missing, expected an integer from 1 to {_MOST}")
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST:
        raise ValueError(f"{path}: field '{field}': got {value!r}, expected an integer from 1 to {_MOST}")
    return value
