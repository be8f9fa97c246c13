"""A model that answers from a script, so that every forward of the decoder can be checked by hand."""

from types import SimpleNamespace

import torch

from nemotron_diffusion_plugin.reference.decoder import ReferenceDecoder

MASK = 100
STOP = 11
VOCAB = 128


class ScriptedModel:
    """Causal rows predict `text[position + 1]`; the rows of a block predict `drafts[position]`, a token and
    its confidence. Keys hold the positions, so that a test sees what was cached."""

    def __init__(self, text, drafts=None, max_position_embeddings=1000):
        self.text = text
        self.drafts = drafts or {}
        self.config = SimpleNamespace(
            mask_token_id=MASK,
            vocab_size=VOCAB,
            eos_token_id=STOP,
            max_position_embeddings=max_position_embeddings,
        )
        self.forwards = []

    def __call__(self, input_ids, positions, visible, cache=None, lora=None, return_hidden=False):
        cached = cache.length if cache is not None else 0
        new = input_ids.shape[1]
        assert visible.shape == (new, cached + new)
        assert positions.tolist() == list(range(cached, cached + new))
        bidirectional = new > 1 and bool(visible.all())
        if not bidirectional:
            assert torch.equal(visible, torch.ones(new, cached + new, dtype=torch.bool).tril(cached))
        kind = "block" if bidirectional else "causal"
        self.forwards.append((kind, input_ids[0].tolist(), cached, lora))
        logits = torch.zeros(1, new, VOCAB)
        for row, position in enumerate(positions.tolist()):
            token, p = (
                self.drafts.get(position, (1, 0.5)) if bidirectional else (self.text[position + 1], 0.99)
            )
            logits[0, row] = torch.log(torch.full((VOCAB,), (1 - p) / (VOCAB - 1)))
            logits[0, row, token] = torch.log(torch.tensor(p))
        keys = positions.float().view(1, 1, -1, 1)
        return logits, [(keys, keys)]

    def diffusion_head(self, hidden):
        return hidden


def decoder(text, drafts=None, lora=None, **config):
    model = ScriptedModel(text, drafts, **config)
    return ReferenceDecoder(model, lora), model
