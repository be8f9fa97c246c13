"""Prefill: SGLang's own forward and sampler, but for the requests whose first token they would get wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sglang.srt.managers.utils import GenerationBatchResult
from sglang.srt.model_executor.forward_batch_info import ForwardBatch

from nemotron_diffusion_plugin.sglang.spec_inputs import SeedRelay
from nemotron_diffusion_plugin.sglang.worker.lengths import HostLengths
from nemotron_diffusion_plugin.sglang.worker.resume import forced_seed
from nemotron_diffusion_plugin.sglang.worker.slots import WorkerSlots
from nemotron_diffusion_plugin.sglang.worker.step import DecodeStep, slots_of
from nemotron_diffusion_plugin.sglang.worker.verification import Verifier


class Prefill:
    """Runs prompts, also those of retracted requests, which hold the output so far."""

    def __init__(
        self,
        target_worker: Any,
        slots: WorkerSlots,
        lengths: HostLengths,
        verifier: Verifier,
        max_model_len: int,
    ) -> None:
        self.target_worker = target_worker
        self.slots = slots
        self.lengths = lengths
        self.verifier = verifier
        self.max_model_len = max_model_len

    def run(self, batch: Any) -> GenerationBatchResult:
        """Prefill a batch; each request's slot is taken over by it."""
        slots = slots_of(batch)
        for req in batch.reqs:
            self.slots.take(req, self.max_model_len)
        self.lengths.prefilled(slots, batch.seq_lens_cpu.numpy().astype(np.int64))
        own = np.flatnonzero(~self.slots.engine_samples[slots])
        if len(own) and not batch.is_prefill_only:
            result = self._sample_here(batch, slots, own)
        else:
            result = self.target_worker.forward_batch_generation(batch)
        for row, req in enumerate(batch.reqs):
            forced = forced_seed(req)
            if forced is not None:
                result.next_token_ids[row] = forced.seed
                if forced.logprob is not None:
                    result.logits_output.next_token_logprobs[row] = forced.logprob
        result.new_seq_lens = batch.seq_lens
        tokens = result.next_token_ids.to(torch.int64).reshape(-1)
        result.next_draft_input = SeedRelay(tokens, batch.seq_lens)
        return result

    def _sample_here(self, batch: Any, slots: np.ndarray, own: np.ndarray) -> GenerationBatchResult:
        """SGLang samples the batch; the rows `own`, with a seed, penalties or a least length, are decided by our rules.

        So a seeded request draws the same tokens whatever runs beside it, and a retracted request keeps its penalties.
        """
        runner = self.target_worker.model_runner
        self.target_worker.set_hicache_consumer(batch.hicache_consumer_index)
        forward_batch = ForwardBatch.init_new(batch, runner, return_hidden_states_before_norm=False)
        result: GenerationBatchResult = self.target_worker.forward_batch_generation(
            batch=None, forward_batch=forward_batch, is_verify=True
        )
        output = result.logits_output
        rows = self.slots.table.on_device(own)
        logits = output.next_token_logits[rows].clone()
        batch.sampling_info.update_regex_vocab_mask()
        mask = batch.sampling_info.grammar_mask  # SGLang drops its own once it has applied it
        result.next_token_ids = runner.sample(output, forward_batch)
        index = self.slots.table.on_device(slots)
        step = DecodeStep(batch, slots, index, batch.seq_lens.to(torch.int64) - 1, torch.zeros_like(index))
        self.slots.table.place(slots, index, step.computed, batch.seq_lens_cpu.numpy().astype(np.int64) - 1)
        laid = self.verifier.lay_out(step, own, np.ones(len(own), dtype=np.int64))
        if mask is not None:
            mask = type(mask)(mask.grammar, mask.vocab_mask[rows]).apply
        chain = torch.zeros(len(own), 1, dtype=torch.int64, device=index.device)
        outcome = self.verifier.acceptance.decide(step, own, laid, chain, logits, mask)
        tokens = outcome.tokens[:, 0]
        result.next_token_ids[rows] = tokens.to(result.next_token_ids.dtype)
        if outcome.logits is not None:
            scaled = outcome.logits[:, 0] / batch.sampling_info.temperatures[rows]
            logprobs = scaled.log_softmax(dim=1).gather(1, tokens[:, None])[:, 0]
            output.next_token_logprobs[rows] = logprobs.to(output.next_token_logprobs.dtype)
        return result
