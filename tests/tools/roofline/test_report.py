import json

import pytest

from nemotron_diffusion_plugin.model.forward_cost import Precision
from nemotron_diffusion_plugin.model.hardware import GPUS, find_gpu
from nemotron_diffusion_plugin.model.shapes import PUBLISHED
from nemotron_diffusion_plugin.tools.roofline.methods import Assumptions
from nemotron_diffusion_plugin.tools.roofline.points import Point
from nemotron_diffusion_plugin.tools.roofline.report import Setting, make_report, report_json


def setting(**changes):
    return Setting(**{"shape": PUBLISHED["8B"], "gpu": GPUS["h200"], **changes})


def test_json_holds_everything_and_survives_a_round_trip():
    report = make_report(
        setting(assumed=Assumptions(tpf=2.57), precision=Precision("fp8", "fp8"), efficiency=0.75),
        [Point("diffusion", 2, 100.0, 4096, "x")],
    )
    content = report_json(report)
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["schema"] == "nemotron-diffusion/roofline/1"
    assert content["model"]["kv_bytes_per_token"] == 69_632
    assert len(content["forwards"]) == 2 * len(content["ceilings"]) == 16
    (row,) = content["measured"]
    assert row["share"] == pytest.approx(100.0 / row["ceiling"])


def test_without_limit_is_null():
    content = report_json(make_report(setting(contexts=(8192,), assumed=Assumptions(block_size=8))))
    assert [row["requests"] for row in content["free_block"]] == [None]


def test_what_does_not_fit_into_the_memory():
    rows = make_report(setting(gpu=GPUS["h100"])).ceilings
    assert {(row.context, row.concurrency) for row in rows if not row.fits} == {(8192, 64)}
    anything = make_report(setting(gpu=find_gpu("custom", 1.0, 1.0), contexts=(10**6,)))
    assert all(row.fits for row in anything.ceilings)


def test_block_sizes_listed():
    assert [row.block for row in make_report(setting(contexts=(0,))).free] == [8, 16, 32]
    small = make_report(setting(contexts=(0,), assumed=Assumptions(block_size=12)))
    assert [row.block for row in small.free] == [8, 12]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"efficiency": 0.0}, "--efficiency: got 0.0, expected a share from 0.001 to 1"),
        ({"efficiency": 1.1}, "--efficiency: got 1.1"),
        ({"compute_efficiency": float("nan")}, "--compute-efficiency: got nan"),
        ({"contexts": (-1,)}, "--context: got -1, expected 0 to"),
        ({"concurrencies": (1, 0)}, "--concurrency: got 0, expected 1 to"),
        ({"concurrencies": (10**400,)}, "--concurrency: got 1000"),
    ],
)
def test_impossible_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        setting(**changes)


def test_a_point_without_a_ceiling():
    with pytest.raises(ValueError, match="a point of 'diffusion' needs --tpf"):
        make_report(setting(), [Point("diffusion", 1, 1.0)])
