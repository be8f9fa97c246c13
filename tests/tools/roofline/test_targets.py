"""The numbers the project measures itself by, from bytes and data sheets alone."""

import pytest

from nemotron_diffusion_plugin.model.forward_cost import Precision, forward_cost
from nemotron_diffusion_plugin.model.hardware import GPUS
from nemotron_diffusion_plugin.model.shapes import PUBLISHED
from nemotron_diffusion_plugin.tools.roofline.methods import Assumptions, methods
from nemotron_diffusion_plugin.tools.roofline.report import Setting, make_report

H200 = GPUS["h200"]


def ceiling(name, efficiency, **assumed):
    method = next(m for m in methods(PUBLISHED["8B"], Assumptions(**assumed)) if m.name == name)
    return method.tokens_per_second(0, 1, Precision(), H200.at(efficiency, efficiency))


@pytest.mark.parametrize(
    ("model", "gigabytes", "milliseconds"), [("3B", 6.86, 1.43), ("8B", 15.90, 3.31), ("14B", 25.67, 5.35)]
)
def test_bytes_and_time_of_one_forward(model, gigabytes, milliseconds):
    cost = forward_cost(PUBLISHED[model].network, 1, 0, 1, Precision())
    assert round(cost.bytes / 1e9, 2) == gigabytes
    assert round(cost.floor_time(H200) * 1e3, 2) == milliseconds


@pytest.mark.parametrize(
    ("name", "efficiency", "tokens_per_second"),
    [
        ("ar", 1.0, 302),
        ("ar", 0.75, 226),
        ("self_speculation", 1.0, 1029),
        ("self_speculation", 0.75, 772),
        ("one_forward", 1.0, 2058),
        ("one_forward", 0.75, 1543),
    ],
)
def test_tokens_per_second_of_the_8b_model_on_one_h200(name, efficiency, tokens_per_second):
    assert ceiling(name, efficiency) == pytest.approx(tokens_per_second, abs=1.0)


def test_eagle3_where_drafting_costs_one_pass_of_its_head():
    assert ceiling("eagle3", 0.75) == pytest.approx(590, abs=5)


def test_eagle3_as_a_chain_of_three_drafts():
    assert ceiling("eagle3", 0.75, eagle_passes=3) == pytest.approx(542, abs=5)


def test_a_block_of_32_stops_being_free_at_about_4_to_6_requests():
    """Upper end: data-sheet FLOP/s; lower end: 75 % of them. Whole requests for which the block is free."""
    report = make_report(Setting(PUBLISHED["8B"], H200, contexts=(0,)))
    row = next(row for row in report.free if row.block == 32)
    assert (int(row.cautious_requests), int(row.requests)) == (4, 6)


def test_one_forward_of_a_block_costs_one_row_until_there():
    report = make_report(Setting(PUBLISHED["8B"], H200, contexts=(0,), concurrencies=(6, 7)))
    time = {(row.concurrency, row.rows): row.floor_time for row in report.forwards}
    assert time[6, 32] == pytest.approx(time[6, 1], rel=1e-3)
    assert time[7, 32] > 1.05 * time[7, 1]
