"""A token from a row of logits, the most likely or a drawn one, with its confidence."""

from .api import Picked, Sampling, pick
from .shards import merge_shards, pick_shard

__all__ = ["Picked", "Sampling", "merge_shards", "pick", "pick_shard"]
