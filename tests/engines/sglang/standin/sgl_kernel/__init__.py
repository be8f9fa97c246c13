"""Stands in for SGLang's compiled kernels, of which no build for a CPU is published.

Plain torch, and only what SGLang 0.5.23 imports on a CPU without AMX for decoder models: slot bookkeeping
(`slots`) and what its own speculators use (`trees`, `speculative`). Any other name is an ImportError, as in a
build without that kernel. Names and signatures are those of the kernels. Arguments called `pool_len`,
`tree_mask_mode` and the like that plain torch does not need are accepted and unused.
"""

from sgl_kernel.slots import (
    assign_draft_cache_locs_contiguous_cpu,
    assign_extend_cache_locs_cpu,
    assign_req_to_token_pool_cpu,
    copy_all_layer_kv_cache_cpu,
    fill_accept_out_cache_loc_cpu,
    fill_bonus_tokens_cpu,
    rotate_input_ids_cpu,
)
from sgl_kernel.trees import build_tree_kernel_efficient_cpu, verify_tree_greedy_cpu

__all__ = [
    "assign_draft_cache_locs_contiguous_cpu",
    "assign_extend_cache_locs_cpu",
    "assign_req_to_token_pool_cpu",
    "build_tree_kernel_efficient_cpu",
    "copy_all_layer_kv_cache_cpu",
    "fill_accept_out_cache_loc_cpu",
    "fill_bonus_tokens_cpu",
    "rotate_input_ids_cpu",
    "verify_tree_greedy_cpu",
]
__version__ = "0.0.0"
