"""Comparing served answers with the reference decoder: the same text, tokens, forwards and accepted drafts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemotron_diffusion_plugin.tools.bench.client import Reply
from nemotron_diffusion_plugin.tools.bench.counts import Counts
from nemotron_diffusion_plugin.tools.bench.data import Prompt
from nemotron_diffusion_plugin.tools.bench.methods import Method
from nemotron_diffusion_plugin.tools.tokenizer import load_tokenizer, render


class Reference:
    """The reference decoder of a local checkpoint, with its chat template.

    The servers must run in float32 with the checkpoint's own context length for exact equality.
    """

    def __init__(self, folder: Path, max_tokens: int) -> None:
        """Raises ValueError where `folder` is no checkpoint folder."""
        from nemotron_diffusion_plugin.reference.decoder import ReferenceDecoder

        self.decoder = ReferenceDecoder.from_checkpoint(folder)
        self.tokenizer: Any = load_tokenizer(folder)
        self.max_tokens = max_tokens

    def differences(
        self, method: Method, prompts: Sequence[Prompt], replies: Sequence[Reply], counts: Counts
    ) -> list[str]:
        """Return how served answers and counts differ from the reference decoder's; empty where they are equal."""
        from nemotron_diffusion_plugin.options import DecodingOptions

        block_size = self.decoder.model.config.block_size
        options = DecodingOptions.parse(method.options, DecodingOptions.for_model(block_size), block_size)
        expected = Counts(forwards={"prefill": len(prompts), "draft": 0, "denoise": 0, "verify": 0})
        found: list[str] = []
        for number, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
            ids = self.tokenizer.encode(render(self.tokenizer, prompt.messages), add_special_tokens=False)
            answer = self.decoder.generate(ids, self.max_tokens, options)
            text = self.tokenizer.decode(answer.token_ids, skip_special_tokens=True)
            if (reply.text, reply.tokens) != (text, len(answer.token_ids)):
                found.append(
                    f"prompt {number}: served {reply.tokens} tokens {reply.text!r}, the reference decoder "
                    f"{len(answer.token_ids)} tokens {text!r}"
                )
            expected.forwards["draft"] += answer.draft_forwards
            expected.forwards["denoise"] += answer.denoise_forwards
            expected.forwards["verify"] += answer.verify_forwards
            expected.accepted += sum(answer.accepted)
        for kind, forwards in expected.forwards.items():
            if counts.forwards.get(kind) != forwards:
                found.append(
                    f"{kind} forwards: served {counts.forwards.get(kind)}, the reference decoder {forwards}"
                )
        if method.drafts and counts.accepted != expected.accepted:
            found.append(
                f"accepted drafts: served {counts.accepted}, the reference decoder {expected.accepted}"
            )
        return found
