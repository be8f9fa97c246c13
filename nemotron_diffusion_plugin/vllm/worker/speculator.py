"""The speculator whose drafter is the target itself: what to draft after each verify forward, and for whom."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from typing_extensions import override
from vllm.config.compilation import CUDAGraphMode
from vllm.v1.worker.gpu.spec_decode.speculator import BaseSpeculator
from vllm.v1.worker.gpu.states import RequestState

from nemotron_diffusion_patches.vllm import draft_plan as draft_plan_patch
from nemotron_diffusion_patches.vllm import step_report as step_report_patch
from nemotron_diffusion_patches.vllm import worker_warm_up as worker_warm_up_patch
from nemotron_diffusion_plugin.core import BlockPhase
from nemotron_diffusion_plugin.options import DecodingMode
from nemotron_diffusion_plugin.rules.block import last_position
from nemotron_diffusion_plugin.serving.constrained_drafts import DraftWalk
from nemotron_diffusion_plugin.serving.drafting import UNBOUNDED, Drafter, DraftResult, DraftStep
from nemotron_diffusion_plugin.serving.operators import make_operators
from nemotron_diffusion_plugin.serving.overrides import checked_overrides
from nemotron_diffusion_plugin.serving.picking import BlockPicker
from nemotron_diffusion_plugin.serving.slots import SlotTable
from nemotron_diffusion_plugin.settings import MEASURED
from nemotron_diffusion_plugin.vllm.log import logger
from nemotron_diffusion_plugin.vllm.messages import DenoiseReport, DraftPlan
from nemotron_diffusion_plugin.vllm.settings import server_settings
from nemotron_diffusion_plugin.vllm.worker.acceptance import BlockRejectionSampler, BlockSampler
from nemotron_diffusion_plugin.vllm.worker.forward import BlockForward
from nemotron_diffusion_plugin.vllm.worker.logprobs import LOGITS_MODES
from nemotron_diffusion_plugin.vllm.worker.resume import BlockReplay
from nemotron_diffusion_plugin.vllm.worker.timing import RunnerTimer

_speculators: weakref.WeakValueDictionary[int, BlockSpeculator] = weakref.WeakValueDictionary()


def speculator_of(vllm_config: Any) -> BlockSpeculator:
    """The speculator the runner has built for this engine; the model state gets no other way to it."""
    return _speculators[id(vllm_config)]


@checked_overrides
class BlockSpeculator(BaseSpeculator):
    """Serves the three modes as draft policies of one engine step: verify, then draft.

    AR requests get no drafts, self-speculation one bidirectional forward, diffusion as many as its commit rule needs.
    Next to requests of another mode a denoise loop is cut into pieces of `denoise_forwards`, and the scheduler leaves
    the unfinished requests out until their block is done, so that nobody waits for a whole block.
    """

    supports_mm_inputs = False
    draft_logits = None
    pcp_manager = None
    enable_adaptive_verification = False

    def __init__(self, vllm_config: Any, device: torch.device, req_states: RequestState) -> None:
        self.vllm_config = vllm_config
        self.device = device
        self.req_states = req_states
        self.settings = server_settings(vllm_config)
        self.operators = make_operators(self.settings.kernels, device)
        logger.info("Nemotron-Labs-Diffusion: operators by %s", self.operators.name)
        self.num_drafts = self.settings.block_size - 1
        self.reads_flags = device.type == "cpu"
        self.table = SlotTable(
            self.settings,
            vllm_config.scheduler_config.max_num_seqs,
            vllm_config.model_config.hf_config.mask_token_id,
            device,
        )
        self.table.logprobs.as_logits = vllm_config.model_config.logprobs_mode in LOGITS_MODES
        self._report = DenoiseReport()
        self._plan = DraftPlan()
        _speculators[id(vllm_config)] = self
        step_report_patch.patch(_take_report).apply()
        draft_plan_patch.patch(_take_plan).apply()
        worker_warm_up_patch.patch(_warmed_up).apply()

    @property
    def max_model_len(self) -> int:
        """Most tokens of a request; the engine may lower it while it sizes the KV cache."""
        return int(self.vllm_config.model_config.max_model_len)

    @override
    def init_cudagraph_manager(self, cudagraph_mode: CUDAGraphMode) -> None:
        """Draft forwards run eagerly or compiled, outside CUDA graphs."""

    @override
    def capture(self) -> None:
        """Nothing to capture."""

    def attach_sampler(self, sampler: Any) -> tuple[BlockSampler, BlockRejectionSampler]:
        """Build the samplers that accept diffusion blocks; called once, after the model is loaded."""
        self.sampler = BlockSampler.adopt(sampler, self.table, self.operators, self._resume)
        speculative_config = self.vllm_config.speculative_config
        return self.sampler, BlockRejectionSampler(self.sampler, speculative_config, self.device)

    def attach_forward(self, forward: BlockForward) -> None:
        """Take the forward over the KV cache; called once the cache exists, and again when it is rebuilt."""
        self.forward = forward
        states = self.sampler.sampling_states
        # vLLM points `seeds.gpu` at another tensor every step: it is read at use.
        picker = BlockPicker(self.table, forward, lambda index: states.seeds.gpu[index], self.operators)
        self.drafter = Drafter(self.table, forward, picker, self.operators)
        self.replay = BlockReplay(self.table, forward, self.req_states)

    def measure_costs(self, runner: Any) -> None:
        """Time forwards for auto, unless the server was given their costs; the next report has them."""
        if self.settings.cost_source == MEASURED:
            timer = RunnerTimer(runner, self.forward, self.table, self.operators)
            self._report.forward_costs = timer.costs(self.vllm_config.model_config.hf_config)
            self.forward.take_count()

    def take_plan(self, plan: DraftPlan) -> None:
        """Take what the scheduler has planned for the drafts after the coming step."""
        self._plan = plan

    def take_report(self) -> DenoiseReport:
        """What was denoised since the last report."""
        report, self._report = self._report, DenoiseReport()
        report.bidirectional_forwards = self.forward.take_count()
        ids = self.req_states.index_to_req_id
        report.denoising = frozenset(ids[int(slot)] for slot in self.table.denoising())
        return report

    def finish_scheduled(self, input_batch: Any) -> None:
        """Before a verify forward: finish blocks that are scheduled though they still hold masks."""
        late = self.table.is_in(input_batch.idx_mapping_np, BlockPhase.DENOISING)
        if not late.any():
            return
        self._report_finished(self.drafter.run())
        if input_batch.num_draft_tokens_per_req is None:
            return
        for row in np.flatnonzero(late):
            count = int(input_batch.num_draft_tokens_per_req[row])
            end = int(input_batch.query_start_loc_np[row + 1])
            drafts = self.req_states.draft_tokens[int(input_batch.idx_mapping_np[row]), :count]
            input_batch.input_ids[end - count : end] = drafts.to(input_batch.input_ids.dtype)

    @torch.inference_mode()
    @override
    def propose(
        self,
        input_batch: Any,
        attn_metadata: Any,
        slot_mappings: Any,
        last_hidden_states: torch.Tensor,
        aux_hidden_states: Any,
        num_sampled: torch.Tensor,
        num_rejected: torch.Tensor,
        last_sampled: torch.Tensor,
        next_prefill_tokens: torch.Tensor,
        temperature: torch.Tensor,
        seeds: torch.Tensor,
        dp_sync_state: Any = None,
        dummy_run: bool = False,
        skip_attn_for_dummy_run: bool = False,
        mm_inputs: Any = None,
        is_profile: bool = False,
        num_speculative_tokens: int | None = None,
    ) -> torch.Tensor:
        """Return the drafts of each request of the batch, int64 `[num_reqs, K]`; unused places hold 0."""
        drafts = torch.zeros(input_batch.num_reqs, self.num_drafts, dtype=torch.int64, device=self.device)
        if dummy_run:
            return drafts
        slots = input_batch.idx_mapping_np[: input_batch.num_reqs].astype(np.int64)
        ends = input_batch.seq_lens_cpu_upper_bound.numpy()[: input_batch.num_reqs].astype(np.int64)
        begins = self._begins(slots, ends, input_batch.req_ids)
        self._hand_out_rest(slots, ends, begins, drafts)
        self.table.end(slots[self._known_ended(slots, begins, num_sampled)])
        begins &= ~self.table.is_in(slots, BlockPhase.ENDED)
        if num_speculative_tokens == 0:  # from 0.33: the step has no request that can use drafts
            begins[:] = False
        has_others = not self.table.is_diffusion(slots).all()
        bound = self.settings.denoise_forwards if has_others else UNBOUNDED

        def walks_of(rows: np.ndarray) -> Mapping[int, DraftWalk]:
            return self._plan.walks(rows, input_batch.req_ids, self.sampler.last_output, num_sampled)

        if begins.any():
            index = self.table.on_device(slots)
            starts = self.req_states.num_computed_tokens.gpu[index].long()
            step = DraftStep(slots, begins, last_sampled[index, 0], starts, ends, self.max_model_len)
            result = self.drafter.draft(step, bound, walks_of)
        else:
            result = self.drafter.run(bound=bound)
        self._report_finished(result)
        if result.drafts is not None:
            drafts[self.table.on_device(result.speculating)] = result.drafts[:, 1:]
        self._put_in_finished(slots, result.finished, drafts)
        return drafts

    def _begins(self, slots: np.ndarray, ends: np.ndarray, request_ids: Sequence[str]) -> np.ndarray:
        """Which rows begin a block, bool `[R]`; the scheduler has chosen the lengths of those in auto."""
        table = self.table
        for row in np.flatnonzero(table.is_mode(slots, DecodingMode.AUTO)):
            length = self._plan.lengths.get(request_ids[row])
            if length is not None:
                table.choose_lengths(slots[row], length)
        diffusion = table.is_diffusion(slots)
        lengths = np.where(diffusion, table.longest[slots], table.length[slots])
        begins: np.ndarray = (ends >= self.req_states.prefill_len.np[slots]) & (lengths > 1)
        # The bound is exact for diffusion alone: the other modes may have rejected drafts and have room left.
        return begins & (~diffusion | (ends < last_position(self.max_model_len)))

    def _hand_out_rest(
        self, slots: np.ndarray, ends: np.ndarray, begins: np.ndarray, drafts: torch.Tensor
    ) -> None:
        """A block that the token budget cut short goes on with the rest of its plan; its row drafts nothing new."""
        place = ends - self.table.start[slots]
        planned = self.table.is_in(slots, BlockPhase.PLANNED) & (place > 0)
        inside = begins & planned & (place < self.table.length[slots])
        for row in np.flatnonzero(inside):
            rest = self.table.blocks.tokens[int(slots[row]), int(place[row]) + 1 :]
            drafts[row, : rest.shape[0]] = rest
        begins &= ~inside

    def _known_ended(self, slots: np.ndarray, begins: np.ndarray, num_sampled: torch.Tensor) -> np.ndarray:
        """Which requests have ended with the tokens just sampled, as far as the host may know without waiting.

        A self-speculating request that has ended is drafted for once more where the host runs ahead of the device.
        """
        if not begins.any() or not (self.reads_flags or (begins & self.table.is_diffusion(slots)).any()):
            return np.zeros(len(slots), dtype=bool)
        index, output = self.table.on_device(slots), self.sampler.last_output
        assert output is not None
        total = self.req_states.total_len.gpu[index]
        ended = self.table.has_ended(index, output.sampled_token_ids.long(), num_sampled, total)
        return ended.cpu().numpy()

    def _report_finished(self, result: DraftResult) -> None:
        """Hand finished blocks to the runner, and their denoise steps to the scheduler."""
        if result.finished:
            index = self.table.on_device(np.array(result.finished))
            self.req_states.draft_tokens[index] = self.table.blocks.tokens[index, 1:]
        for slot in result.finished:
            request_id = self.req_states.index_to_req_id[slot]
            self._report.denoise_steps.append((request_id, int(self.table.steps[slot])))

    def _finish_block(self, slot: int) -> None:
        self._report_finished(self.drafter.run(only=np.array([slot])))

    def _put_in_finished(self, slots: np.ndarray, finished: list[int], drafts: torch.Tensor) -> None:
        """The runner writes `drafts` back for the whole batch, so the blocks just finished must be in it."""
        rows = np.flatnonzero(np.isin(slots, finished))
        if len(rows):
            drafts[self.table.on_device(rows)] = self.table.blocks.tokens[
                self.table.on_device(slots[rows]), 1:
            ]

    def _resume(self, slots: np.ndarray, ends: np.ndarray) -> None:
        """Before acceptance: plan the block again that a preempted diffusion request was in."""
        diffusion = self.table.is_diffusion(slots) & self.table.is_in(slots, BlockPhase.NONE)
        prefill = self.req_states.prefill_len.np[slots]
        replayed = diffusion & (prefill > self.table.prompt_len[slots]) & (ends[: len(slots)] == prefill)
        if replayed.any():
            for slot, known in zip(slots[replayed], prefill[replayed], strict=True):
                self.replay.plan(int(slot), int(known), self._finish_block)


def _take_plan(runner: Any, plan: DraftPlan | None) -> None:
    if isinstance(runner.speculator, BlockSpeculator):
        runner.speculator.take_plan(plan or DraftPlan())


def _warmed_up(runner: Any) -> None:
    if isinstance(runner.speculator, BlockSpeculator):
        runner.speculator.measure_costs(runner)


def _take_report(runner: Any) -> DenoiseReport | None:
    speculator = runner.speculator
    return speculator.take_report() if isinstance(speculator, BlockSpeculator) else None
