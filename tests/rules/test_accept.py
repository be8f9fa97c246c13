import torch

from nemotron_diffusion_plugin.rules.accept import (
    accept_longest_prefix,
    accept_sampled,
    correction_weights,
)


def accepted(drafts, verified, num_drafts=None):
    count = len(drafts) if num_drafts is None else num_drafts
    return accept_longest_prefix(
        torch.tensor([drafts]), torch.tensor([verified]), torch.tensor([count])
    ).item()


def test_longest_matching_prefix():
    assert accepted([1, 2, 3], [1, 2, 3, 4]) == 3
    assert accepted([1, 2, 3], [1, 2, 9, 4]) == 2
    assert accepted([1, 2, 3], [9, 2, 3, 4]) == 0


def test_a_match_after_a_mismatch_does_not_count():
    assert accepted([1, 2, 3, 4], [1, 9, 3, 4, 5]) == 1


def test_only_the_drafts_a_row_has():
    assert accepted([1, 2, 3], [1, 2, 3, 4], num_drafts=2) == 2
    assert accepted([1, 2, 3], [1, 2, 3, 4], num_drafts=0) == 0


def test_rows_are_independent():
    drafts = torch.tensor([[1, 2], [3, 4], [5, 6]])
    verified = torch.tensor([[1, 2, 0], [3, 0, 0], [0, 6, 0]])
    assert accept_longest_prefix(drafts, verified, torch.tensor([2, 2, 2])).tolist() == [2, 1, 0]


def test_no_drafts_at_all():
    empty = torch.empty(2, 0, dtype=torch.int64)
    assert accept_longest_prefix(empty, torch.tensor([[4], [5]]), torch.tensor([0, 0])).tolist() == [0, 0]


DRAWS, VOCAB = 20_000, 5
P = torch.tensor([[0.40, 0.30, 0.15, 0.10, 0.05], [0.05, 0.05, 0.60, 0.10, 0.20], [0.2, 0.2, 0.2, 0.3, 0.1]])
DRAFTS = P[:2].argmax(dim=1)
DISTRIBUTION_LIMIT = 37.0  # chi-square with 4 degrees of freedom exceeds it once in five million


def emitted(correct=correction_weights, accept=accept_sampled):
    """The tokens of one cycle for every draw, int64 `[DRAWS, 3]`, with how many of them were emitted."""
    random = torch.Generator().manual_seed(0)
    drafts, probabilities = DRAFTS.expand(DRAWS, 2), P.expand(DRAWS, 3, VOCAB)
    uniforms = torch.rand(DRAWS, 2, generator=random)
    count = accept(drafts, probabilities, torch.full((DRAWS,), 2), uniforms)
    rejected = torch.where(count < 2, DRAFTS[count.clamp(max=1)], -1)
    last = torch.multinomial(correct(P[count], rejected), 1, generator=random)
    tokens = torch.cat([drafts, torch.zeros(DRAWS, 1, dtype=torch.int64)], dim=1)
    return tokens.scatter(1, count[:, None], last), count + 1


def g_statistics(tokens, count):
    """G-test of the tokens at each position against the causal distribution there."""
    statistics = []
    for place in range(3):
        seen = tokens[count > place, place].bincount(minlength=VOCAB).double()
        expected = P[place].double() * seen.sum()
        statistics.append(2.0 * torch.special.xlogy(seen, seen / expected).sum().item())
    return statistics


def test_sampled_tokens_have_the_causal_distribution():
    tokens, count = emitted()
    assert max(g_statistics(tokens, count)) < DISTRIBUTION_LIMIT
    assert count.bincount(minlength=4)[1:].min() > DRAWS // 10


def test_a_rejected_draft_does_not_come_back():
    tokens, count = emitted()
    assert torch.equal(tokens[:, 0] == DRAFTS[0], count > 1)


def test_wrong_rules_are_noticed():
    from_p = emitted(correct=lambda row, rejected: row)
    assert g_statistics(*from_p)[0] > 10 * DISTRIBUTION_LIMIT
    greedy = emitted(accept=lambda drafts, probabilities, num_drafts, uniforms: num_drafts)
    assert g_statistics(*greedy)[0] > 10 * DISTRIBUTION_LIMIT
    half = emitted(accept=lambda *given: accept_sampled(*given[:3], given[3] * 2.0))
    assert g_statistics(*half)[0] > 10 * DISTRIBUTION_LIMIT


def sampled(drafts, uniforms, num_drafts=None):
    count = len(drafts) if num_drafts is None else num_drafts
    return accept_sampled(
        torch.tensor([drafts]), P[None], torch.tensor([count]), torch.tensor([uniforms])
    ).item()


def test_sampled_drafts_count_up_to_the_first_rejection():
    assert sampled([0, 2], [0.39, 0.59]) == 2
    assert sampled([0, 2], [0.39, 0.61]) == 1
    assert sampled([0, 2], [0.41, 0.01]) == 0
    assert sampled([0, 2], [0.01, 0.01], num_drafts=1) == 1
    assert sampled([0, 2], [0.01, 0.01], num_drafts=0) == 0


def test_sampling_from_a_certain_row_is_greedy():
    certain = torch.nn.functional.one_hot(torch.tensor([[3, 1, 2]]), VOCAB).float()
    uniforms = torch.tensor([[1.0 - 2.0**-24, 2.0**-24]])
    for drafts, expected in (([3, 1], 2), ([3, 2], 1), ([0, 1], 0)):
        assert accept_sampled(torch.tensor([drafts]), certain, torch.tensor([2]), uniforms).item() == expected


def test_no_sampled_drafts_at_all():
    empty = torch.empty(2, 0, dtype=torch.int64)
    none = accept_sampled(empty, P[:1].expand(2, 1, VOCAB), torch.tensor([0, 0]), torch.empty(2, 0))
    assert none.tolist() == [0, 0]


def test_correction_leaves_out_the_rejected_draft_only():
    rows = P.double()
    before = rows.clone()
    weights = correction_weights(rows, torch.tensor([0, -1, 3]))
    assert torch.equal(rows, before)
    assert weights.dtype == rows.dtype
    expected = before.clone()
    expected[0, 0] = expected[2, 3] = 0.0
    assert torch.equal(weights, expected)


def test_correction_always_leaves_something_to_sample():
    row = torch.tensor([[0.0, 0.9999999, 0.0]])
    assert torch.equal(correction_weights(row, torch.tensor([1])), row)
