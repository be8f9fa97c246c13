import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron_diffusion_plugin.model.hardware import GPUS
from nemotron_diffusion_plugin.model.shapes import PUBLISHED
from nemotron_diffusion_plugin.tools.roofline.methods import TITLES
from nemotron_diffusion_plugin.tools.roofline.points import SCHEMA, Point, points_json, read_points
from nemotron_diffusion_plugin.tools.roofline.report import Setting, make_report

PUBLISHED_B200 = Path(__file__).parents[3] / "docs" / "published-b200.json"
POINTS = st.builds(
    Point,
    method=st.sampled_from(sorted(TITLES)),
    concurrency=st.integers(1, 1000),
    tokens_per_second=st.floats(0.1, 1e6),
    context=st.integers(0, 100_000),
    label=st.text(max_size=5),
)


@settings(max_examples=15, deadline=None)
@given(points=st.lists(POINTS, max_size=4))
def test_what_is_written_is_read(tmp_path_factory, points):
    path = tmp_path_factory.mktemp("points") / "points.json"
    path.write_text(json.dumps(points_json(points)), encoding="utf-8")
    assert read_points(path) == points


def test_context_and_label_may_be_left_out(tmp_path):
    path = tmp_path / "points.json"
    point = {"method": "ar", "concurrency": 2, "tokens_per_second": 5}
    path.write_text(json.dumps({"schema": SCHEMA, "points": [point]}))
    assert read_points(path) == [Point("ar", 2, 5.0, 0, "")]


def test_published_points_lie_below_their_ceilings():
    points = read_points(PUBLISHED_B200)
    assert len(points) == 24
    report = make_report(Setting(PUBLISHED["8B"], GPUS["b200"]), points)
    assert all(0.0 < row.share < 1.0 for row in report.measured)


def broken(**changes):
    point = {"method": "ar", "concurrency": 1, "tokens_per_second": 1.0, **changes}
    return {"schema": SCHEMA, "points": [{k: v for k, v in point.items() if v is not None}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "field 'schema': expected 'nemotron-diffusion/points/1'"),
        ({"points": []}, "field 'schema'"),
        ({"schema": SCHEMA, "points": {}}, "field 'points': expected a list"),
        ({"schema": SCHEMA, "points": [3]}, r"points\[0\]: got 3, expected an object"),
        (broken(method="medusa"), "field 'method': got 'medusa', expected one of ar, eagle3"),
        (broken(method=[]), r"field 'method': got \[\]"),
        (broken(concurrency=0), "field 'concurrency': got 0, expected an integer from 1"),
        (broken(concurrency=10**400), "field 'concurrency': got 1000"),
        (broken(concurrency=None), "field 'concurrency': got None"),
        (broken(context=-1), "field 'context': got -1"),
        (broken(context=1.5), "field 'context': got 1.5"),
        (broken(tokens_per_second="fast"), "field 'tokens_per_second': got 'fast'"),
        (broken(tokens_per_second=float("nan")), "field 'tokens_per_second': got nan"),
        (broken(tokens_per_second=True), "field 'tokens_per_second': got True"),
        (broken(label=3), "field 'label': got 3"),
        (broken(speed=3), "unknown field 'speed', expected concurrency, context"),
    ],
)
def test_broken_files(tmp_path, content, message):
    path = tmp_path / "points.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_points(path)


def test_no_json(tmp_path):
    (tmp_path / "points.json").write_text("tokens")
    with pytest.raises(ValueError, match=r"points\.json: not valid JSON"):
        read_points(tmp_path / "points.json")
