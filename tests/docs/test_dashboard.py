"""The Grafana dashboard as a file; `tests/vllm/` and `tests/sglang/` hold it against real pages."""

import pytest

from nemotron_diffusion_plugin.serving import counters
from tests.common.dashboard import missing, panels, selectors

pytest.importorskip("prometheus_client")


def test_panels_do_not_overlap() -> None:
    places = [
        (column, row)
        for grid in (panel["gridPos"] for panel in panels())
        for column in range(grid["x"], grid["x"] + grid["w"])
        for row in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(places) == len(set(places))
    assert max(column for column, _ in places) < 24
    identities = [panel["id"] for panel in panels()]
    assert len(identities) == len(set(identities))


def test_every_counter_of_the_plugin_is_shown() -> None:
    shown = {
        name
        for panel in panels()
        for target in panel["targets"]
        for name, _ in selectors(target["expr"])
        if name.startswith("nemotron")
    }
    names = {*counters.PER_MODE, counters.FORWARDS, counters.ENGINE_FORWARDS, counters.POLICY_DECISIONS}
    totals = {f"nemotron_diffusion[:_]{name}_total" for name in names}
    assert totals == {name for name in shown if name.endswith("_total")}
    for histogram in counters.HISTOGRAMS:
        assert f"nemotron_diffusion[:_]{histogram.name}_bucket" in shown


def test_a_missing_metric_is_found() -> None:
    page = '# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{model_name="m"} 1.0\n'
    absent = {name for name, _ in missing("vllm", page)}
    assert "vllm:num_requests_running" not in absent
    assert {"vllm:num_requests_waiting", "nemotron_diffusion[:_]requests_total"} <= absent
    assert not any(name.startswith("sglang") for name in absent)
