import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron_diffusion_plugin.model.forward_cost import Precision, forward_cost
from nemotron_diffusion_plugin.model.hardware import GPUS
from nemotron_diffusion_plugin.model.shapes import PUBLISHED
from nemotron_diffusion_plugin.tools.roofline.methods import TITLES, Assumptions, eagle3_head, methods

H200 = GPUS["h200"]
MODEL = PUBLISHED["8B"]
FEW = settings(max_examples=25, deadline=None)


def by_name(**assumed):
    return {method.name: method for method in methods(MODEL, Assumptions(**assumed))}


def test_methods_and_their_forwards():
    assert set(by_name(tpf=2.57)) == set(TITLES)
    rows = {name: [f.rows for f in method.forwards] for name, method in by_name(tpf=2.57).items()}
    assert rows == {
        "ar": [1],
        "eagle3": [4, 4],
        "self_speculation": [32, 32],
        "one_forward": [64],
        "quadratic": [1056],
        "diffusion": [32],
    }
    assert "diffusion" not in by_name()


def test_size_of_the_eagle3_head():
    head = eagle3_head(MODEL, fuse=True)
    assert forward_cost(head, 1, 0, 1, Precision()).weight_bytes == pytest.approx(0.849e9, rel=1e-3)
    assert head.layers - eagle3_head(MODEL, fuse=False).layers == 3 * 4096 * 4096
    assert head.kv * MODEL.layers == MODEL.kv_per_token


def test_a_drafter_lora_beside_o_proj_is_read_by_the_draft_forward_alone():
    draft, verify = by_name(lora_rank=128)["self_speculation"].forwards
    assert draft.network.layers - verify.network.layers == 35_651_584
    assert verify.network == MODEL.network


def test_diffusion_is_as_fast_as_its_tokens_per_forward_say():
    found = by_name(tpf=2.0)
    speed = {name: found[name].tokens_per_second(0, 1, Precision(), H200) for name in ("ar", "diffusion")}
    assert speed["diffusion"] == pytest.approx(2.0 * speed["ar"], rel=1e-3)


@FEW
@given(st.floats(1, 31), st.integers(0, 50_000), st.integers(1, 256))
def test_ceilings_grow_with_acceptance_and_requests_and_fall_with_context(acceptance, context, concurrency):
    here, better = by_name(acceptance=acceptance), by_name(acceptance=acceptance + 1)
    for name, method in here.items():
        speed = method.tokens_per_second(context, concurrency, Precision(), H200)
        assert better[name].tokens_per_second(context, concurrency, Precision(), H200) >= speed
        assert method.tokens_per_second(context, concurrency + 1, Precision(), H200) >= speed * (1 - 1e-9)
        assert method.tokens_per_second(context + 64, concurrency, Precision(), H200) <= speed
        assert method.tokens_per_second(context, concurrency, Precision(), H200.at(0.7, 0.7)) < speed


@FEW
@given(st.integers(1, 8), st.integers(1, 64))
def test_every_pass_of_the_eagle3_head_costs(drafts, concurrency):
    times = [
        by_name(eagle_drafts=drafts, eagle_passes=passes, eagle_acceptance=1.5)["eagle3"].cycle_time(
            0, concurrency, Precision(), H200
        )
        for passes in range(1, drafts + 1)
    ]
    assert times == sorted(set(times))


@pytest.mark.parametrize(
    ("assumed", "message"),
    [
        ({"acceptance": 0.9}, "--acceptance: got 0.9, expected 1 to 32"),
        ({"acceptance": 33.0}, "--acceptance: got 33.0, expected 1 to 32"),
        ({"acceptance": float("nan")}, "--acceptance: got nan"),
        ({"block_size": 1}, "--block-size: got 1, expected 2 to 4096"),
        ({"block_size": 4}, "--acceptance: got 6.82, expected 1 to 4"),
        ({"eagle_acceptance": 4.5}, "--eagle-acceptance: got 4.5, expected 1 to 4"),
        ({"eagle_drafts": 0}, "--eagle-drafts: got 0"),
        ({"eagle_passes": 4}, r"--eagle-passes: got 4, expected 1 to 3 \(--eagle-drafts\)"),
        ({"tpf": 0.0}, "--tpf: got 0.0"),
        ({"tpf": 17.0}, "--tpf: got 17.0, expected more than 0 and at most 16"),
        ({"lora_rank": -1}, "--lora-rank: got -1"),
    ],
)
def test_impossible_assumptions(assumed, message):
    with pytest.raises(ValueError, match=message):
        Assumptions(**assumed)
