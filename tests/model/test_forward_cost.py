import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron_diffusion_plugin.model.forward_cost import (
    KV_BYTES,
    WEIGHT_BYTES,
    Precision,
    forward_cost,
    free_requests,
    memory_needed,
)
from nemotron_diffusion_plugin.model.hardware import GPUS, find_gpu
from nemotron_diffusion_plugin.model.shapes import PUBLISHED, ModelShape

SMALL = ModelShape("small", 8, 16, 2, 4, 2, 4, 32)
PRECISIONS = st.builds(Precision, st.sampled_from(sorted(WEIGHT_BYTES)), st.sampled_from(sorted(KV_BYTES)))
MODELS = st.sampled_from(sorted(PUBLISHED))
CARDS = st.sampled_from(sorted(GPUS))
FEW = settings(max_examples=25, deadline=None)


def test_counted_by_hand():
    cost = forward_cost(SMALL.network, rows=3, context=5, concurrency=2, precision=Precision("fp8", "bf16"))
    per_layer = 8 * 16 + 2 * 8 * 8 + 16 * 8 + 3 * 8 * 16
    assert cost.weight_bytes == 2 * per_layer * 1 + 32 * 8 * 2
    assert cost.kv_bytes == 2 * 2 * (2 * 4) * 2 * 5 * 2
    assert cost.embedding_bytes == 6 * 8 * 2
    assert cost.layer_flops == 2 * 2 * per_layer * 6
    assert cost.other_flops == (2 * 32 * 8 + 4 * 2 * 4 * 4 * 5) * 6


def test_time_is_the_longer_one():
    gpu = find_gpu("custom", bandwidth=1.0, tflops=1.0)
    cost = forward_cost(SMALL.network, 1, 0, 1, Precision())
    assert cost.memory_time(gpu) == cost.bytes / 1e12
    assert cost.compute_time(gpu) == pytest.approx(cost.flops / 1e12)
    assert cost.floor_time(gpu) == max(cost.memory_time(gpu), cost.compute_time(gpu))


def test_only_layers_with_fp8_weights_compute_at_the_fp8_speed():
    slow, gpu = GPUS["a100"], GPUS["h200"]
    bf16, fp8, int4 = (
        forward_cost(PUBLISHED["8B"].network, 32, 0, 64, Precision(dtype))
        for dtype in ("bf16", "fp8", "int4")
    )
    assert int4.compute_time(gpu) == bf16.compute_time(gpu)
    assert 0.5 * bf16.compute_time(gpu) < fp8.compute_time(gpu) < 0.6 * bf16.compute_time(gpu)
    assert fp8.compute_time(slow) == bf16.compute_time(slow)


@pytest.mark.parametrize("names", [("fp16", "bf16"), ("bf16", "int4")])
def test_unknown_dtypes(names):
    with pytest.raises(ValueError, match="-dtype: got"):
        Precision(*names)


def test_memory_needed_by_the_8b_model():
    needed = memory_needed(PUBLISHED["8B"], 1000, 4, Precision())
    assert needed == pytest.approx(2 * 8_489_553_920 + 4000 * 139_264, rel=1e-4)


@FEW
@given(MODELS, CARDS, PRECISIONS, st.integers(1, 64), st.integers(0, 100_000), st.integers(1, 512))
def test_more_work_never_takes_less_time(model, card, precision, rows, context, concurrency):
    network, gpu = PUBLISHED[model].network, GPUS[card]
    here = forward_cost(network, rows, context, concurrency, precision).floor_time(gpu)
    for more in ((rows + 1, context, concurrency), (rows, context + 64, concurrency)):
        assert forward_cost(network, *more, precision).floor_time(gpu) >= here
    grown = forward_cost(network, rows, context, concurrency + 1, precision).floor_time(gpu)
    assert here <= grown <= here * (concurrency + 1) / concurrency * (1 + 1e-9)


@FEW
@given(MODELS, CARDS, PRECISIONS, st.integers(1, 64), st.integers(0, 100_000))
def test_smaller_dtypes_and_better_cards_never_take_more_time(model, card, precision, rows, context):
    network, gpu = PUBLISHED[model].network, GPUS[card]
    cost = forward_cost(network, rows, context, 4, precision)
    full = forward_cost(network, rows, context, 4, Precision())
    assert cost.floor_time(gpu) <= full.floor_time(gpu)
    assert cost.floor_time(gpu.at(0.5, 0.5)) == pytest.approx(2 * cost.floor_time(gpu))
    assert cost.floor_time(gpu) <= cost.floor_time(gpu.at(0.9, 1.0)) <= cost.floor_time(gpu.at(0.9, 0.8))


@FEW
@given(MODELS, CARDS, PRECISIONS, st.integers(2, 64), st.integers(0, 30_000))
def test_a_block_is_free_exactly_until_reading_and_computing_take_equally_long(
    model, card, precision, rows, context
):
    network, gpu = PUBLISHED[model].network, GPUS[card]
    limit = free_requests(network, rows, context, precision, gpu)

    def at(requests):
        cost = forward_cost(network, rows, context, requests, precision)
        return cost.compute_time(gpu) / cost.memory_time(gpu)

    if math.isinf(limit):
        assert at(10_000) < 1
    else:
        assert at(limit) == pytest.approx(1)
        assert at(0.9 * limit) < 1 < at(1.1 * limit)
    assert free_requests(network, rows + 1, context, precision, gpu) <= limit
