"""The scheduler: how many drafts each request gets, which requests wait for their block, and the counting."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from typing_extensions import override
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from nemotron_diffusion_patches.vllm.draft_plan import PLAN_ATTRIBUTE
from nemotron_diffusion_patches.vllm.step_report import REPORT_ATTRIBUTE
from nemotron_diffusion_plugin.options import DecodingMode, DecodingOptions
from nemotron_diffusion_plugin.serving.counters import ACCEPTED_IN_CYCLE, STEPS_OF_BLOCK
from nemotron_diffusion_plugin.serving.overrides import checked_overrides
from nemotron_diffusion_plugin.serving.request_counts import RESPONSE_KEY, counts_of, start_counting
from nemotron_diffusion_plugin.vllm.board import CounterBoard, board_path, decision
from nemotron_diffusion_plugin.vllm.core.auto import (
    SchedulerBlocks,
    chosen_block,
    note_proposed,
    proposed_drafts,
)
from nemotron_diffusion_plugin.vllm.grammar import RequestGrammar
from nemotron_diffusion_plugin.vllm.messages import DenoiseReport, DraftPlan
from nemotron_diffusion_plugin.vllm.settings import request_options, server_settings

if TYPE_CHECKING:
    from vllm.v1.request import Request

_NOW = 0
_UNTIL_RELEASED = sys.maxsize


@checked_overrides
class BlockScheduling(Scheduler):
    """What both schedulers share; a mixin in front of vLLM's synchronous or asynchronous scheduler.

    A diffusion request whose block is unfinished is *parked*: not scheduled until the worker reports the block done,
    while requests of other modes go on. It is released when nobody else could run, because the worker denoises
    between engine steps only.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.settings = server_settings(self.vllm_config)
        self.dynamic_sd_lookup: list[int] | None
        if self.dynamic_sd_lookup is None:
            # A fixed number for every batch size; its presence keeps vLLM from padding first steps with fake drafts.
            self.dynamic_sd_lookup = [self.num_spec_tokens] * (self.scheduler_config.max_num_seqs + 1)
        self.auto = SchedulerBlocks(self.vllm_config, self.settings)
        self.board = CounterBoard(board_path(self.vllm_config))
        self._parked: set[str] = set()
        self._in_flight: set[str] = set()
        self._scheduled_nothing = False

    @override
    def schedule(self, *arguments: Any, **keywords: Any) -> Any:
        """Schedule a step; parked requests stay out unless nobody else can run."""
        if self._parked and (self._scheduled_nothing or not (self._neighbours() or self.waiting)):
            self._park(frozenset())
        output = super().schedule(*arguments, **keywords)
        self._scheduled_nothing = output.total_num_scheduled_tokens == 0
        if not self._scheduled_nothing:
            self.board.add("causal_forwards")
        return output

    @override
    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """Take in the step's tokens and what the worker reports about its blocks."""
        report: DenoiseReport | None = getattr(model_runner_output, REPORT_ATTRIBUTE, None)
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        self._in_flight.difference_update(scheduler_output.num_scheduled_tokens)
        if report is not None:
            self.board.add("bidirectional_forwards", amount=report.bidirectional_forwards)
            if report.forward_costs is not None:
                self.auto.adopt(report.forward_costs)
            self._count_denoising(report)
            self._park(report.denoising | self._in_flight)
        return outputs

    @override
    def make_spec_decoding_stats(
        self,
        spec_decoding_stats: Any,
        num_draft_tokens: int,
        num_accepted_tokens: int,
        num_invalid_spec_tokens: Any,
        request_id: str,
    ) -> Any:
        """Count a verify forward with drafts; vLLM's statistics skip diffusion, whose blocks are no accepted drafts."""
        request = self.requests[request_id]
        mode = self._options(request).decoding_mode
        self.board.add("cycles", mode)
        if mode is DecodingMode.DIFFUSION:
            return spec_decoding_stats
        self._count_forward(request, "draft")
        self.board.add("accepted_drafts", mode, num_accepted_tokens)
        self.board.observe(ACCEPTED_IN_CYCLE, num_accepted_tokens)
        if counts := counts_of(request):
            counts.accepted_drafts.append(num_accepted_tokens)
        if mode is DecodingMode.AUTO:
            # What a grammar refuses is rejected too, also where vLLM cuts it off before the verify forward.
            self.auto.observe(request, max(num_draft_tokens, proposed_drafts(request)), num_accepted_tokens)
        return super().make_spec_decoding_stats(
            spec_decoding_stats, num_draft_tokens, num_accepted_tokens, num_invalid_spec_tokens, request_id
        )

    @override
    def shutdown(self) -> None:
        """Remove the counters with the engine."""
        self.board.close()
        super().shutdown()

    @override
    def _update_request_with_output(self, request: Request, *arguments: Any, **keywords: Any) -> Any:
        first = request.num_output_tokens == 0
        tokens, stopped = super()._update_request_with_output(request, *arguments, **keywords)
        options = self._options(request)
        if first:
            self.board.add("requests", options.decoding_mode)
            if options.return_counts:
                start_counting(request, options.decoding_mode)
        self._count_forward(request, "prefill" if first else "verify")
        self.board.add("generated_tokens", options.decoding_mode, len(tokens))
        if counts := counts_of(request):
            counts.tokens += len(tokens)
        return tokens, stopped

    def _count_forward(self, request: Request, kind: str) -> None:
        self.board.add(f"{kind}_forwards", self._options(request).decoding_mode)
        if counts := counts_of(request):
            counts.forward(kind)

    def _count_denoising(self, report: DenoiseReport) -> None:
        for request_id, steps in report.denoise_steps:
            self.board.add("denoise_forwards", DecodingMode.DIFFUSION, steps)
            self.board.observe(STEPS_OF_BLOCK, steps)
            request = self.requests.get(request_id)
            if request is not None and (counts := counts_of(request)):
                counts.block_denoised(steps)

    @override
    def _free_request(self, request: Request, *arguments: Any, **keywords: Any) -> Any:
        """What a request took goes with its last output (`patches/…/response_counts.py`)."""
        transfer, *others = super()._free_request(request, *arguments, **keywords)
        if counts := counts_of(request):
            transfer = {**(transfer or {}), RESPONSE_KEY: counts.summary()}
        return transfer, *others

    @override
    def _update_after_schedule(self, scheduler_output: Any) -> None:
        super()._update_after_schedule(scheduler_output)
        setattr(scheduler_output, PLAN_ATTRIBUTE, self._plan_drafts(scheduler_output.num_scheduled_tokens))

    def _plan_drafts(self, scheduled: Any) -> DraftPlan:
        """Choose how many tokens the worker drafts after this step for requests in auto, and what they keep to."""
        decoding = [
            (request, self._options(request)) for request in self.running if not request.is_prefill_chunk
        ]
        lengths = self.auto.choose_for(decoding, scheduled)
        for length in lengths.values():
            self.board.add(decision(self.settings, length))
        grammars = {
            request.request_id: RequestGrammar(self.structured_output_manager, request)
            for request, options in decoding
            if request.use_structured_output
            and options.decoding_mode.speculates
            and request.request_id in scheduled
        }
        return DraftPlan(lengths, grammars)

    def _options(self, request: Request) -> DecodingOptions:
        return request_options(self.settings, request.sampling_params)

    def _is_diffusion(self, request: Request) -> bool:
        return self._options(request).decoding_mode is DecodingMode.DIFFUSION

    def _num_drafts(self, request: Request, seed_position: int) -> int:
        """Drafts after the seed; a diffusion block that was cut short goes on where it stopped."""
        options = self._options(request)
        longest = options.longest_block
        if options.decoding_mode is DecodingMode.AUTO:
            return chosen_block(request) - 1
        if options.decoding_mode is DecodingMode.DIFFUSION:
            return longest - 1 - (seed_position - request.num_prompt_tokens) % longest
        return longest - 1

    def _neighbours(self) -> bool:
        """Whether a running request is not parked."""
        return any(request.request_id not in self._parked for request in self.running)

    def _park(self, request_ids: frozenset[str]) -> None:
        for request_id in self._parked - request_ids:
            self._set_eligible(request_id, _NOW)
        for request_id in request_ids:
            self._set_eligible(request_id, _UNTIL_RELEASED)
        self._parked = {request_id for request_id in request_ids if request_id in self.requests}

    def _set_eligible(self, request_id: str, step: int) -> None:
        request = self.requests.get(request_id)
        if request is not None:
            request.next_decode_eligible_step = step


@checked_overrides
class SyncBlockScheduler(BlockScheduling):
    """Drafts of a step are trimmed before the next one is scheduled."""

    @override
    def update_draft_token_ids(self, draft_token_ids: Any) -> None:
        """Cut each request's drafts to the number its mode and its place in the block call for."""
        constrained = []
        for request_id, tokens in zip(draft_token_ids.req_ids, draft_token_ids.draft_token_ids, strict=True):
            request = self.requests.get(request_id)
            if request is None:
                continue
            del tokens[self._num_drafts(request, request.num_tokens - 1) :]
            if tokens and request.use_structured_output and not request.is_prefill_chunk:
                note_proposed(request, len(tokens))
                constrained.append(request)
        super().update_draft_token_ids(draft_token_ids)
        for request in constrained:
            if not request.spec_token_ids and not request.is_finished():
                self._count_refused(request)

    def _count_refused(self, request: Request) -> None:
        """Count a draft of which the grammar left nothing, so that no verify forward will tell of it."""
        self._count_forward(request, "draft")
        if self._options(request).decoding_mode is DecodingMode.AUTO:
            self.auto.observe(request, proposed_drafts(request), 0)
        note_proposed(request, 0)


@checked_overrides
class AsyncBlockScheduler(BlockScheduling, AsyncScheduler):
    """Drafts are placeholders; the step after next is scheduled before this one has come back."""

    @override
    def _update_after_schedule(self, scheduler_output: Any) -> None:
        super()._update_after_schedule(scheduler_output)
        mixed = any(not self._is_diffusion(request) for request in self.running)
        for request_id in scheduler_output.num_scheduled_tokens:
            request = self.requests[request_id]
            if request.is_prefill_chunk:
                continue
            # Exact for diffusion, where every draft is accepted; the other modes do not look at the position.
            request.spec_token_ids = [-1] * self._num_drafts(request, request.num_computed_tokens)
            if mixed and request.spec_token_ids and self._is_diffusion(request):
                self._parked.add(request_id)
                self._in_flight.add(request_id)
                self._set_eligible(request_id, _UNTIL_RELEASED)


def make_scheduler(vllm_config: Any, *arguments: Any, **keywords: Any) -> BlockScheduling:
    """Build the scheduler that fits the engine's mode of scheduling; named by `scheduler_config.scheduler_cls`."""
    asynchronous = vllm_config.scheduler_config.async_scheduling
    kind = AsyncBlockScheduler if asynchronous else SyncBlockScheduler
    return kind(vllm_config, *arguments, **keywords)
