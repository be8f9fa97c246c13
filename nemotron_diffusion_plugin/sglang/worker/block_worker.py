"""The speculative worker whose drafter is the target itself: draft, verify, hand the tokens to SGLang's scheduler."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sglang.srt.managers.utils import GenerationBatchResult
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.srt.speculative.base_spec_worker import BaseSpecWorker
from typing_extensions import override

from nemotron_diffusion_patches.sglang import response_counts
from nemotron_diffusion_plugin.core import BlockPhase
from nemotron_diffusion_plugin.model.spec import ARCHITECTURES, is_served
from nemotron_diffusion_plugin.rules.block import block_lengths
from nemotron_diffusion_plugin.serving.draft_lora import has_adapter
from nemotron_diffusion_plugin.serving.drafting import UNBOUNDED, Drafter, DraftStep
from nemotron_diffusion_plugin.serving.operators import make_operators
from nemotron_diffusion_plugin.serving.overrides import checked_overrides
from nemotron_diffusion_plugin.serving.picking import BlockPicker
from nemotron_diffusion_plugin.sglang.identity import ALGORITHM
from nemotron_diffusion_plugin.sglang.log import logger
from nemotron_diffusion_plugin.sglang.settings import serve, settings_of
from nemotron_diffusion_plugin.sglang.worker import counters
from nemotron_diffusion_plugin.sglang.worker.auto import WorkerBlocks
from nemotron_diffusion_plugin.sglang.worker.forward import BACKENDS, BlockForward
from nemotron_diffusion_plugin.sglang.worker.grammar import walks_of
from nemotron_diffusion_plugin.sglang.worker.lengths import HostLengths
from nemotron_diffusion_plugin.sglang.worker.prefill import Prefill
from nemotron_diffusion_plugin.sglang.worker.slots import WorkerSlots
from nemotron_diffusion_plugin.sglang.worker.step import DecodeStep, StepCounts, slots_of
from nemotron_diffusion_plugin.sglang.worker.timing import SlotTimer
from nemotron_diffusion_plugin.sglang.worker.verification import Verified, Verifier


@checked_overrides
class BlockWorker(BaseSpecWorker):
    """Serves the three modes as draft policies of one engine step: draft, then verify.

    AR requests get no drafts, self-speculation one bidirectional forward, diffusion as many as its commit rule needs.
    Next to requests of another mode a denoise loop is cut into pieces of `denoise_forwards`: a request whose block
    still holds masks emits nothing in that step, so that nobody waits for a whole block.
    """

    def __init__(
        self, server_args: Any, gpu_id: int, nccl_port: int, target_worker: Any, **keywords: Any
    ) -> None:
        super().__init__()
        self.server_args = server_args
        self.gpu_id = gpu_id
        self.nccl_port = nccl_port
        self._target_worker = target_worker
        self._draft_worker = None
        self.model_runner = target_worker.model_runner
        self.device = target_worker.device
        config = self.model_runner.model_config
        if not is_served(config.hf_config):
            raise ValueError(
                f"speculative_algorithm: got '{ALGORITHM}' for {config.hf_config.architectures}, which only "
                f"{' or '.join(ARCHITECTURES)} can run"
            )
        self.settings = settings_of(config.hf_config)
        self.operators = make_operators(self.settings.kernels, torch.device(self.device))
        logger.info("Nemotron-Labs-Diffusion: operators by %s", self.operators.name)
        self.speculative_num_draft_tokens = self.settings.block_size
        self.speculative_num_steps = 1
        self.topk = 1
        self.reads_flags = torch.device(self.device).type == "cpu"
        self.others_pending = False
        """Whether the step before had requests of other modes, whose tokens SGLang reads after this step."""
        self.counters = counters.Counters.for_server(
            server_args, self.settings.auto_blocks, lambda *verified: self.auto.observe(*verified)
        )
        response_counts.enable()
        serve(self.settings)

    @override
    def init_attention_backends(self) -> None:
        """The target's backend serves both views; the pools exist now, so the request table can be sized."""
        config = self.model_runner.model_config
        pool_tokens = self.model_runner.max_total_num_tokens
        _refuse_small_pool(pool_tokens, self.settings.block_size, self.model_runner.page_size)
        slots = self.model_runner.req_to_token_pool.req_to_token.shape[0]
        self.slots = WorkerSlots(
            self.settings, slots, config.hf_config.mask_token_id, config.vocab_size, torch.device(self.device)
        )
        self.table = self.slots.table
        self.max_model_len = config.context_len
        self.forward = BlockForward(self._target_worker, self.settings.block_size, self._attention_backend())
        self.auto = WorkerBlocks(self.settings, config.hf_config, self.server_args, self.forward)
        noise_seeds = self.slots.noise_seeds.__getitem__
        picker = BlockPicker(self.table, self.forward, noise_seeds, self.operators)
        self.drafter = Drafter(self.table, self.forward, picker, self.operators)
        self.lengths = HostLengths(slots)
        self.verifier = Verifier(self.forward, self.slots, self.operators)
        self.prefill = Prefill(
            self._target_worker, self.slots, self.lengths, self.verifier, self.max_model_len
        )

    def _attention_backend(self) -> str:
        runner = self.model_runner
        names = {runner.prefill_attention_backend_str, runner.decode_attention_backend_str}
        if len(names) > 1 or not names <= BACKENDS:
            raise ValueError(
                f"attention_backend: got {', '.join(sorted(names))}, expected one of {', '.join(sorted(BACKENDS))} for "
                "prefill and decode; use --attention-backend"
            )
        return str(names.pop())

    @override
    def init_cuda_graphs(self) -> None:
        """Graphs of the draft forward were captured beside the target's (`graphs.py`); now forwards can be timed."""
        has_graphs = getattr(self.model_runner, "decode_cuda_graph_runner", None) is not None
        # The request pool has one slot more than requests.
        num_slots, has_lora = len(self.table.mode) - 1, has_adapter(self.model_runner.model)
        timer = SlotTimer(self.forward, self.table, self.operators, num_slots, has_lora)
        self.auto.begin(timer, has_graphs)
        self.forward.count = 0
        self.model_runner.shared_read_done_event = None  # of the last timed forward

    @property
    @override
    def draft_worker(self) -> None:
        """There is no second model."""
        return None

    @property
    @override
    def spec_v2_attn_backends(self) -> tuple[Any, ...]:
        """The attention backends that a step touches."""
        return (self.model_runner.attn_backend,)

    def __getattr__(self, name: str) -> Any:
        if name == "_target_worker":
            raise AttributeError(name)
        return getattr(self._target_worker, name)

    @override
    def on_verify_complete_cpu(self, num_correct_drafts_per_req: list[int], batch_size: int = 0) -> None:
        """SGLang has read the result of the oldest pending step: count it, and how far its requests have come."""
        step = self.counters.step_done(num_correct_drafts_per_req)
        if step is not None:
            self.lengths.read(step.slots, step.lengths, step.tenancies)

    def forward_batch_generation(
        self,
        batch: Any,
        on_publish: Any = None,
        pp_proxy_tensors: Any = None,
    ) -> GenerationBatchResult:
        """Run a prefill, or one step of draft and verify, and return what each request emits."""
        if batch.forward_mode.is_extend():
            self.counters.engine_forward("causal")
            result = self.prefill.run(batch)
            self.others_pending = True
        elif batch.forward_mode == ForwardMode.DECODE:
            result = self._decode(batch)
        else:
            raise RuntimeError(
                f"forward mode: got {batch.forward_mode}, expected EXTEND or DECODE; data-parallel attention is not "
                "supported"
            )
        if on_publish is not None:
            on_publish(result.new_seq_lens)
        return result

    def _decode(self, batch: Any) -> GenerationBatchResult:
        slots = slots_of(batch)
        step = DecodeStep(
            batch,
            slots,
            self.table.on_device(slots),
            batch.seq_lens.to(torch.int64),
            batch.spec_info.bonus_tokens.reshape(-1).to(torch.int64),
        )
        before = self.forward.count
        self._place(step)
        if self._is_plain(step):
            result = self._plain_decode(step)
            self.others_pending = True
            self.counters.engine_forward("causal", self.forward.count - before)
            return result
        chain, drafted, denoised = self._draft(step)
        self.counters.engine_forward("bidirectional", self.forward.count - before)
        before = self.forward.count
        rows = np.flatnonzero(~self.table.is_in(slots, BlockPhase.DENOISING, BlockPhase.ENDED))
        verified = self.verifier.verify(step, rows, chain)
        self.counters.engine_forward("causal", self.forward.count - before)
        lengths = np.zeros(step.size, dtype=np.int64)
        lengths[rows] = self.table.length[slots[rows]]
        self._begun(step, drafted, denoised, lengths)
        self.table.hand_over(slots[rows[self.table.is_diffusion(slots[rows])]])
        self._drop_scores(slots)
        return verified.result(step)

    def _begun(
        self, step: DecodeStep, drafted: np.ndarray, denoised: np.ndarray, lengths: np.ndarray
    ) -> None:
        """Keep what a step does until its result comes back; arguments as in `StepCounts`."""
        slots = step.slots
        tenancies = self.lengths.verified(slots, lengths)
        modes = self.table.mode[slots]
        self.counters.step_begun(StepCounts(step.reqs, modes, drafted, denoised, lengths, slots, tenancies))

    def _place(self, step: DecodeStep) -> None:
        """Note where every request stands, and how long its block is: shorter near the context limit."""
        table, slots = self.table, step.slots
        starts = self.lengths.starts(step, table, self.max_model_len)
        table.place(slots, step.index, step.computed, starts)
        longest = block_lengths(starts, table.longest[slots], self.max_model_len)
        self.counters.chosen(self.auto.choose_for(step, table, longest))

    def _is_plain(self, step: DecodeStep) -> bool:
        """Whether SGLang's own decode step does: nobody drafts, and its sampler is exact for everybody."""
        alone = (self.table.length[step.slots] == 1) & ~self.table.is_diffusion(step.slots)
        exact = self.slots.engine_samples[step.slots]
        return bool((alone & exact).all()) and not step.batch.has_grammar

    def _plain_decode(self, step: DecodeStep) -> GenerationBatchResult:
        """AR requests only: one decode forward and SGLang's sampler, nothing of ours in between."""
        batch, ones = step.batch, np.ones(step.size, dtype=np.int64)
        laid = self.verifier.lay_out(step, np.arange(step.size), ones)
        forward_batch = self.forward.forward_batch(laid, step.seeds)
        forward_batch.sampling_info = batch.sampling_info
        forward_batch.return_logprob = batch.return_logprob
        forward_batch.top_logprobs_nums = batch.top_logprobs_nums
        forward_batch.token_ids_logprobs = batch.token_ids_logprobs
        self.forward.count += 1
        result = self._target_worker.forward_batch_generation(batch=None, forward_batch=forward_batch)
        tokens = result.next_token_ids.to(torch.int64)
        output = result.logits_output
        if batch.return_logprob:  # [R] becomes [R, 1], the layout of speculative results
            output.next_token_logprobs = output.next_token_logprobs.view(-1, 1)
        none = np.zeros(step.size, dtype=np.int64)
        self._begun(step, none, none, ones)
        self._drop_scores(step.slots)
        verified = Verified(tokens[:, None], torch.ones_like(tokens), tokens, output)
        return verified.result(step, result.can_run_cuda_graph)

    def _drop_scores(self, slots: np.ndarray) -> None:
        """Keep commit scores of unfinished blocks alone: the others have been handed over, or their request is gone."""
        self.table.logprobs.keep_only(slots[self.table.is_in(slots, BlockPhase.DENOISING)])

    def _draft(self, step: DecodeStep) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
        """Draft and denoise; grammars choose the drafts of their requests.

        Returns the chains, int64 `[R, B]`, and for each request its draft forwards and the denoise forwards of a block
        that is finished.
        """
        table, slots = self.table, step.slots
        diffusion = table.is_diffusion(slots)
        table.end(slots[self._ended(step, diffusion)])
        going = ~table.is_in(slots, BlockPhase.ENDED)
        begins = np.where(diffusion, table.is_in(slots, BlockPhase.NONE), table.length[slots] > 1)
        has_others = bool((going & ~diffusion).any())
        bound = self.settings.denoise_forwards if has_others or self.others_pending else UNBOUNDED
        self.others_pending = has_others
        result = self.drafter.draft(
            DraftStep(
                slots, going & begins, step.seeds, step.computed, table.start[slots], self.max_model_len
            ),
            bound,
            lambda rows: walks_of(step.batch, rows.tolist()) if step.batch.has_grammar else {},
            only=slots,
        )
        chain = torch.zeros(step.size, self.settings.block_size, dtype=torch.int64, device=step.seeds.device)
        planned = table.on_device(np.flatnonzero(diffusion))
        chain[planned] = table.blocks.tokens[step.index[planned]]
        if result.drafts is not None:
            chain[table.on_device(result.speculating)] = result.drafts
        chain[:, 0] = step.seeds
        drafted = np.zeros(step.size, dtype=np.int64)
        drafted[result.speculating] = 1
        done = diffusion & table.is_in(slots, BlockPhase.PLANNED)
        return chain, drafted, np.where(done, table.steps[slots], 0)

    def _ended(self, step: DecodeStep, diffusion: np.ndarray) -> np.ndarray:
        """Which rows have ended, as far as the host may know without waiting where it needs not wait.

        Under the overlap schedule an ended request comes once more. One that speculates is drafted for in vain then.
        """
        unknown = np.zeros(step.size, dtype=bool)
        if not (self.reads_flags or diffusion.any()):
            return unknown
        return self.slots.ended[step.index].cpu().numpy()


def _refuse_small_pool(pool_tokens: int, block_size: int, page_size: int) -> None:
    """Raise ValueError for a KV pool in which no request could decode: a step reserves two blocks beside a prompt."""
    least = 2 * block_size + page_size
    if pool_tokens < least:
        raise ValueError(
            f"max_total_tokens: got {pool_tokens}, expected at least {least}, a page and two blocks of {block_size}; "
            "use --max-total-tokens or --mem-fraction-static"
        )
