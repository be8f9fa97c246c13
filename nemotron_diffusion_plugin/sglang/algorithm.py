"""The speculative algorithm as SGLang's registry wants it."""

from __future__ import annotations

from typing import Any

from sglang.srt.speculative.spec_registry import CustomSpecAlgo
from typing_extensions import override

from nemotron_diffusion_plugin.serving.overrides import checked_overrides


@checked_overrides
class BlockAlgorithm(CustomSpecAlgo):
    """The drafter is the target: no draft model, no draft KV, nothing but seeds between two steps."""

    @override
    def has_draft_kv(self) -> bool:
        """Drafts live in the target's own KV slots."""
        return False

    def need_topk(self) -> bool:
        """Drafts do not travel between steps."""
        return False

    def carries_draft_hidden_states(self) -> bool:
        """Hidden states do not travel between steps."""
        return False

    def create_future_map(
        self,
        device: Any,
        req_to_token_pool: Any,
        needs_cpu_seq_lens: bool = True,
        needs_confidence_relay: bool = False,
    ) -> Any:
        """The relay of the overlap schedule; the host waits for lengths where the attention backend needs them."""
        from sglang.srt.managers.overlap_utils import FutureMap

        return FutureMap(device, self, req_to_token_pool, needs_cpu_seq_lens, needs_confidence_relay)

    @override
    def handle_server_args(self, server_args: Any) -> None:
        """Raise ValueError for a set-up in which drafts would be wrong; the architecture has set the rest."""
        from nemotron_diffusion_plugin.sglang.front.defaults import refuse_unsupported

        refuse_unsupported(server_args)
