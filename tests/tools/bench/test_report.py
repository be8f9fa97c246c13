import pytest

from nemotron_diffusion_plugin.tools.bench.counts import Counts
from nemotron_diffusion_plugin.tools.bench.plots import draw_all
from nemotron_diffusion_plugin.tools.bench.report import report
from nemotron_diffusion_plugin.tools.bench.result import Load, Result
from nemotron_diffusion_plugin.tools.bench.setup import Setup

METHODS = ("ar", "eagle3", "self_speculation", "diffusion@0.9", "diffusion@0.5")


@pytest.fixture
def result(tmp_path):
    setup = Setup("vllm", "folder", METHODS, ("code", "table"), concurrency=(1, 4), repeats=2)
    result = Result(tmp_path / "bench.json", setup)
    for index, method in enumerate(METHODS):
        for category, scale in (("code", 1), ("table", 3)):
            forwards = {"prefill": 10, "verify": 20, "draft": 20 * (method == "self_speculation")}
            cell = Counts(10, 50, 120 * scale, 9 - index, 10, forwards, 20, 30 * scale, [15, 5 * scale])
            result.add_counts(method, category, cell)
        for concurrency in (1, 4):
            for repeat in (0, 1):
                times = [0.5, 0.7]
                gaps = {"p50": 0.01, "p90": 0.02, "p99": 0.03}
                tokens = 100 * (index + 1) * (repeat + 1)
                result.add_load(
                    Load(method, concurrency, repeat, 2, 6, tokens, 2.0, times, times, times, gaps)
                )
    result.finish()
    return result


def test_tables(result):
    page = report(result, ["speed.png"])
    assert "| AR | 90.0 % of 20 | 480 | 12.00 | 8.00 | – |" in page
    assert "| self-speculation | 70.0 % of 20 | 480 | 6.00 | 4.80 | 4.00 |" in page
    assert "| code | 2.50 | 2.50 |" in page
    assert "| self-speculation | 0.75 | 0.50 |" in page
    assert "| AR | 75 (50–100) | 75 (50–100) |" in page
    assert "| diffusion 0.5 | 375 (250–500) | 375 (250–500) |" in page
    assert "| AR | 1 | 600 / 700 / 700 | 600.0 / 700.0 / 700.0 | 10.0 / 20.0 / 30.0 |" in page
    assert page.rstrip().endswith("![speed.png](speed.png)")
    assert "not finished" not in page
    assert "the first token comes with the prefill, so AR shows a little more than 1" in page
    assert "drafts accepted past an answer's end count" in page
    assert "median of 2 repeats (" in page


def test_it_says_where_eagle3_accepts_as_much(result):
    assert (
        "a longer acceptance length than Eagle3 with 7 drafts in every category but code, table."
        in report(result)
    )
    ours = result.content["counts"]["self_speculation"]
    ours["code"]["accepted"] += 1
    assert "than Eagle3 with 7 drafts in every category but table." in report(result)
    ours["table"]["accepted"] += 1
    assert "than Eagle3 with 7 drafts in every category. A cycle" in report(result)


def test_an_unfinished_run_says_so_and_shows_what_there_is(tmp_path):
    setup = Setup("vllm", "folder", METHODS, ("code", "table"), repeats=2)
    result = Result(tmp_path / "bench.json", setup)
    result.add_counts("ar", "code", Counts(1, 1, 4, forwards={"prefill": 1, "verify": 2}))
    page = report(result)
    assert "**This run is not finished.**" in page
    assert "| AR | – | 4 | 2.00 | 1.33 | – |" in page
    assert "| table | – |" in page
    assert "## Times" not in page


def test_repeats_are_those_that_were_measured(result):
    result.content["loads"].pop()
    assert "median of 1 to 2 repeats (" in report(result)
    result.content["loads"] = result.content["loads"][:1]
    assert "median of 1 repeat (" in report(result)


def test_pictures(result, tmp_path):
    pytest.importorskip("matplotlib")
    names = draw_all(result, tmp_path)
    assert names == [
        "tokens-per-second.png",
        "acceptance-length.png",
        "acceptance-by-position.png",
        "accuracy.png",
        "latency.png",
    ]
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_pictures_of_nothing(tmp_path):
    pytest.importorskip("matplotlib")
    empty = Result(tmp_path / "bench.json", Setup("vllm", "folder", METHODS, ("code",)))
    assert draw_all(empty, tmp_path) == []
