"""The block lengths that give the most tokens per millisecond: a pure function of load, acceptance and costs."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

import numpy as np

from nemotron_diffusion_plugin.costs import ForwardCosts

SWITCH_GAIN = 0.03
"""How much more another length must promise before a batch leaves the one it has."""

_MIXED = 0
"""In the place of a length: requests have different ones."""

_ROUNDING = 1e-9
"""Speeds this close are equal: of lengths that are equally fast the shortest is taken."""

_STEP = 0.5
"""Requests whose expected tokens round to the same multiple of this are treated alike."""


@dataclass(frozen=True)
class Others:
    """The requests of a batch whose mode is fixed.

    Attributes:
        verify_rows, draft_rows: their rows in a verify and in a draft forward.
        verify_kv, draft_kv: the cached tokens that those rows read.
        tokens: what they give in a step.
        verify_lengths, draft_lengths: how many rows each of them has there.
        masks: how many of the rows in a verify forward a grammar masks.
    """

    verify_rows: int = 0
    draft_rows: int = 0
    verify_kv: int = 0
    draft_kv: int = 0
    tokens: float = 0.0
    verify_lengths: frozenset[int] = frozenset()
    draft_lengths: frozenset[int] = frozenset()
    masks: int = 0


@dataclass(frozen=True)
class Engine:
    """What an engine can run.

    Attributes:
        rows_at_once: the most rows of one forward; more take several. None for no limit.
        ragged: whether one forward takes requests of unequal rows; otherwise there is one for each length.
        captured: rows of a request for which CUDA graphs were captured: a forward whose requests all have one of these
            is replayed, every other one takes at least the costs' `eager_ms`. None where forwards are all alike.
    """

    rows_at_once: int | None = None
    ragged: bool = True
    captured: frozenset[int] | None = None


@dataclass(frozen=True)
class Load:
    """The requests whose block length is to be chosen; `n` of them, and `m` block lengths.

    Attributes:
        lengths: int64 `[m]`, the lengths to choose from, increasing, the first of them 1, which is AR.
        rows: int64 `[n, m]`, rows of each request at each length: its own upper bound may be below.
        tokens: float64 `[n, m]`, expected tokens of a step.
        kv: int64 `[n]`, cached tokens of each request.
        has_grammar: bool `[n]`, whether the host masks each row of a request.
        others: the rest of the batch.
        engine: what its forwards can take.
    """

    lengths: np.ndarray
    rows: np.ndarray
    tokens: np.ndarray
    kv: np.ndarray
    has_grammar: np.ndarray
    others: Others = field(default_factory=Others)
    engine: Engine = field(default_factory=Engine)


@dataclass(frozen=True)
class Choice:
    """Which lengths, what a step costs with them, and what it is expected to give.

    Attributes:
        places: int64 `[n]`, each request's place in `Load.lengths`.
        common: the place of the longest length in use, that the batch was chosen by.
        ms: of a step.
        tokens: of a step, those of the others included.
    """

    places: np.ndarray
    common: int
    ms: float
    tokens: float

    @property
    def speed(self) -> float:
        """Tokens per millisecond."""
        return self.tokens / self.ms


def evaluate(load: Load, costs: ForwardCosts, places: np.ndarray, common: int) -> Choice:
    """Return what the lengths at int64 `places` `[n]` cost and give."""
    each = np.arange(len(places))
    ms = _ms_of(load, costs, load.rows[each, places], places > 0)
    tokens = float(load.tokens[each, places].sum()) + load.others.tokens
    return Choice(places, common, ms, tokens)


def best_choice(load: Load, costs: ForwardCosts, current: int | None = None) -> Choice:
    """Return the choice with the most expected tokens per millisecond.

    One length for the batch. Requests for which it does not pay decode token by token beside it, and where blocks of
    unequal length can share a forward a request drafts fewer tokens when its last ones are not worth their rows. The
    batch stays at the place `current` of `Load.lengths` unless another promises `SWITCH_GAIN` more. AR for all is among
    the candidates, so nothing is chosen that is expected to be slower than AR by more than that.
    """
    candidates = [_best_at(load, costs, common) for common in range(len(load.lengths))]
    fastest = max(choice.speed for choice in candidates)
    best = next(choice for choice in candidates if choice.speed >= fastest * (1.0 - _ROUNDING))
    if current is not None and candidates[current].speed * (1.0 + SWITCH_GAIN) >= best.speed:
        best = candidates[current]
    if best.common and load.engine.ragged:
        trimmed = _trim(load, costs, best)
        if trimmed.speed > best.speed:
            return trimmed
    return best


def _best_at(load: Load, costs: ForwardCosts, common: int) -> Choice:
    """The best choice in which every request has the length at `common` or none: the best drafters, and AR.

    Requests come in the order of what they are expected to give; where some have a grammar, whose masks cost time,
    also all others before these.
    """
    if common == 0:
        return evaluate(load, costs, np.full(len(load.tokens), common, dtype=np.int64), common)
    worth = np.round(load.tokens[:, common] / _STEP)
    orders = [np.lexsort((load.has_grammar, -worth))]
    if load.has_grammar.any() and not load.has_grammar.all():
        orders.append(np.lexsort((-worth, load.has_grammar)))
    return max(
        (_best_cut(load, costs, common, worth, order) for order in orders), key=lambda choice: choice.speed
    )


def _best_cut(load: Load, costs: ForwardCosts, common: int, worth: np.ndarray, order: np.ndarray) -> Choice:
    """The best choice in which the first requests in an order draft; those alike in `worth` and grammar together."""
    grammar = load.has_grammar[order]
    last_of_equals = (np.diff(worth[order], append=-1.0) != 0.0) | (np.diff(grammar, append=True) != 0)
    cuts = np.flatnonzero(last_of_equals)
    drafted = load.rows[order, common].cumsum()[cuts].tolist()
    drafted_kv = load.kv[order].cumsum()[cuts].tolist()
    tokens = (load.tokens[order, common].cumsum()[cuts] + len(order) - 1 - cuts + load.others.tokens).tolist()
    all_kv, block = int(load.kv.sum()), int(load.lengths[common])
    is_whole = np.logical_and.accumulate(load.rows[order, common] == block)[cuts].tolist()
    masks = np.where(grammar, load.rows[order, common] - 1, 0).cumsum()[cuts] + int(grammar.sum())
    ms = [
        _step_ms(load, costs, rows, kv, len(order) - 1 - int(cut), all_kv - kv, block if whole else _MIXED)
        + _mask_ms(load, costs, int(masked))
        for cut, rows, kv, whole, masked in zip(cuts, drafted, drafted_kv, is_whole, masks, strict=True)
    ]
    best = max(range(len(ms)), key=lambda cut: tokens[cut] / ms[cut])
    places = np.zeros(len(order), dtype=np.int64)
    places[order[: cuts[best] + 1]] = common
    return Choice(places, common, ms[best], tokens[best])


def _trim(load: Load, costs: ForwardCosts, choice: Choice) -> Choice:
    """Give each request the length at which further rows stop paying their price at this choice's speed."""
    each, drafting = np.arange(len(choice.places)), choice.places > 0
    rows = load.rows[each, choice.places]
    one = int(np.argmax(rows))
    fewer = rows.copy()
    fewer[one] = 1
    saved = choice.ms - _ms_of(load, costs, fewer, drafting)
    if saved <= 0.0:
        return choice
    mask_ms = load.has_grammar * (costs.ms_per_mask or 0.0)
    price = (saved / (int(rows[one]) - 1) - mask_ms[one] + mask_ms) * choice.speed
    value = load.tokens - price[:, None] * load.rows
    return evaluate(load, costs, np.argmax(value[:, : choice.common + 1], axis=1), choice.common)


def _ms_of(load: Load, costs: ForwardCosts, rows: np.ndarray, drafting: np.ndarray) -> float:
    """Milliseconds of a step with int64 `rows` `[n]`, of which bool `drafting` `[n]` are drafted for."""
    drafted, drafted_kv = int(rows[drafting].sum()), int(load.kv[drafting].sum())
    lengths = set(rows[drafting].tolist())
    length = lengths.pop() if len(lengths) == 1 else _MIXED
    single, single_kv = int(rows.sum()) - drafted, int(load.kv.sum()) - drafted_kv
    ms = _step_ms(load, costs, drafted, drafted_kv, single, single_kv, length)
    return ms + _mask_ms(load, costs, int(rows[load.has_grammar].sum()))


def _mask_ms(load: Load, costs: ForwardCosts, masks: int) -> float:
    """Milliseconds of the host for the masks of a verify forward: so many, and the others'."""
    return (masks + load.others.masks) * (costs.ms_per_mask or 0.0)


def _step_ms(
    load: Load,
    costs: ForwardCosts,
    drafted: int,
    drafted_kv: int,
    single: int,
    single_kv: int,
    length: int,
) -> float:
    """Milliseconds of a draft and a verify forward, by the rows and cached tokens of those who draft and the rest.

    `length` is the rows of each who drafts, `_MIXED` where they differ.
    """
    others, engine = load.others, load.engine
    drafting = {length} if drafted else set()
    alone = others.verify_lengths | ({1} if single else set())
    single, single_kv = single + others.verify_rows, single_kv + others.verify_kv
    drafts = _forward_ms(
        engine,
        costs,
        drafted + others.draft_rows,
        drafted_kv + others.draft_kv,
        True,
        drafting | others.draft_lengths,
    )
    if engine.ragged:
        rows, kv = drafted + single, drafted_kv + single_kv
        return drafts + _forward_ms(engine, costs, rows, kv, False, drafting | alone)
    together = _forward_ms(engine, costs, drafted, drafted_kv, False, drafting)
    return drafts + together + _forward_ms(engine, costs, single, single_kv, False, alone)


def _forward_ms(
    engine: Engine, costs: ForwardCosts, rows: int, kv: int, bidirectional: bool, lengths: Set[int]
) -> float:
    """Milliseconds of a forward of requests of these lengths, in parts where the rows are more than fit."""
    limit = engine.rows_at_once or max(rows, 1)
    is_replayed = engine.captured is None or (len(lengths) == 1 and lengths <= engine.captured)
    least = 0.0 if is_replayed else costs.eager_ms or 0.0
    whole, rest = divmod(rows, limit)
    parts = whole * max(costs.forward_ms(limit, 0, bidirectional), least)
    if rest:
        parts += max(costs.forward_ms(rest, 0, bidirectional), least)
    return parts + kv * costs.ms_per_kv_token * (rows > 0)
