import json
import shlex

import pytest

from nemotron_diffusion_plugin.tools.bench.data import open_source
from nemotron_diffusion_plugin.tools.bench.errors import BenchError
from nemotron_diffusion_plugin.tools.bench.report import report
from nemotron_diffusion_plugin.tools.bench.result import Result, read
from nemotron_diffusion_plugin.tools.bench.run import Run
from nemotron_diffusion_plugin.tools.bench.servers import Servers
from nemotron_diffusion_plugin.tools.bench.setup import Setup
from tests.tools.bench.conftest import LAUNCHER

pytest.importorskip("httpx")
pytest.importorskip("openai")


def setup(**changes):
    given = {
        "engine": "vllm",
        "model": "folder",
        "methods": ("ar", "ngram", "self_speculation"),
        "categories": ("code", "table"),
        "launcher": LAUNCHER,
        "per_category": 3,
        "concurrency": (1, 2),
        "requests": 3,
        "repeats": 2,
        "together": True,
    }
    return Setup(**{**given, **changes})


def measure(chosen, folder):
    result = Result.open(folder / "bench.json", chosen)
    cells = []
    with Servers(chosen, result, folder, timeout=20.0) as servers:
        Run(result, open_source("tiny", chosen.categories, chosen.seed), servers, 20.0, cells.append)()
    return result, cells


def test_every_cell_is_measured_once(tmp_path):
    result, cells = measure(setup(), tmp_path)
    assert len(cells) == len(set(cells)) == 3 * 2 + 3 * 2 * 2
    assert result.content["finished"]
    assert set(result.content["servers"]) == {"modes", "ngram"}
    counts = result.counts["self_speculation"]["code"]
    assert (counts.requests, counts.checked, counts.right, counts.tokens) == (3, 3, 0, 27)
    assert counts.forwards == {"prefill": 3, "draft": 12, "denoise": 0, "verify": 15}
    assert (counts.cycles, counts.accepted, counts.by_position) == (12, 18, [6, 6, 3, 3])
    ngram = result.total("ngram")
    assert (ngram.cycles, ngram.accepted, ngram.forwards) == (24, 36, {"prefill": 6, "verify": 24})
    [load] = [x for x in result.loads if (x.method, x.concurrency, x.repeat) == ("ar", 2, 1)]
    assert (load.requests, load.tokens, len(load.first), len(load.per_token)) == (3, 27, 3, 3)
    assert load.tokens_per_second == 27 / load.seconds


def test_counts_come_before_times_and_the_order_turns(tmp_path):
    _, cells = measure(setup(concurrency=(1,), per_category=1), tmp_path)
    assert [cell.split(":")[0] for cell in cells] == ["counts"] * 6 + ["repeat 1"] * 3 + ["repeat 2"] * 3
    assert [cell.split(": ")[1].split(",")[0] for cell in cells[6:]] == [
        "AR",
        "self-speculation",
        "n-gram",
        "self-speculation",
        "AR",
        "n-gram",
    ]


def test_all_methods_are_asked_the_same_and_nothing_twice(fake, url, tmp_path):
    chosen = setup(launcher=None, url=url, methods=("ar", "self_speculation"))
    measure(chosen, tmp_path)
    asked = {"ar": [], "self_speculation": []}
    for body in fake.requests:
        asked[body["vllm_xargs"]["decoding_mode"]].append(body["messages"][0]["content"])
    assert sorted(asked["ar"]) == sorted(asked["self_speculation"])
    warm_up, counted, timed = 2 + 2, 2 * 3, 2 * 2 * 3
    assert len(asked["ar"]) == warm_up + counted + timed
    assert len(set(asked["ar"])) == len(asked["ar"]) - 2  # the warm-up of another concurrency


def test_a_finished_run_asks_nothing_more(fake, url, tmp_path):
    chosen = setup(launcher=None, url=url, methods=("ar",))
    measure(chosen, tmp_path)
    before = len(fake.requests)
    _, cells = measure(chosen, tmp_path)
    assert cells == []
    assert len(fake.requests) == before


def test_without_together_one_server_runs_at_a_time(tmp_path):
    chosen = setup(together=False, concurrency=(1,), per_category=1)
    result = Result.open(tmp_path / "bench.json", chosen)
    running = []
    started = []
    with Servers(chosen, result, tmp_path, 20.0, on_start=started.append) as servers:

        def note(cell):
            running.append(len(servers._running))

        Run(result, open_source("tiny", chosen.categories, 0), servers, 20.0, note)()
    assert max(running) == 1
    assert [kind.value for kind in started] == ["modes", "ngram"] * 3


def test_a_server_that_dies_keeps_what_was_measured_and_the_run_goes_on(tmp_path):
    chosen = setup(server_options="--die-after 5", methods=("ar",), concurrency=())
    with pytest.raises(BenchError, match=r"AR: .*; the server has ended, its log is") as caught:
        measure(chosen, tmp_path)
    assert "out of memory, says the fake" in caught.value.log_tail
    kept = json.loads((tmp_path / "bench.json").read_text())
    assert list(kept["counts"]["ar"]) == ["code"]
    assert kept["finished"] is None
    result, cells = measure(chosen, tmp_path)
    assert cells == ["counts: AR, table"]
    assert result.content["finished"]


def test_another_setup_is_refused(tmp_path):
    Result.open(tmp_path / "bench.json", setup()).save()
    with pytest.raises(
        ValueError, match="another setup: 'seed' is 0 there and 1 now; choose another --output"
    ):
        Result.open(tmp_path / "bench.json", setup(seed=1))
    Result.open(tmp_path / "bench.json", setup())


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("versions", "other versions: 'python' is '1' there"),
        ("hardware", "other hardware: 'cores' is 0 there"),
    ],
)
def test_cells_of_other_versions_or_hardware_are_not_mixed(tmp_path, part, message):
    result = Result.open(tmp_path / "bench.json", setup())
    result.content[part] |= {"python": "1"} if part == "versions" else {"cores": 0}
    result.save()
    with pytest.raises(ValueError, match=message):
        Result.open(tmp_path / "bench.json", setup())


def test_a_server_of_the_other_engine_is_refused(fake, url, tmp_path):
    with pytest.raises(
        ValueError, match=r"--engine: got sglang, but the server at .* is vllm.* --engine vllm"
    ):
        measure(setup(engine="sglang", launcher=None, url=url, methods=("ar",)), tmp_path)
    assert fake.requests == []


def test_a_category_with_fewer_prompts_is_asked_each_once(fake, url, tmp_path):
    rows = [{"messages": [{"role": "user", "content": str(n)}], "category": "few"} for n in range(2)]
    path = tmp_path / "few.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    chosen = setup(launcher=None, url=url, methods=("ar",), categories=("few",), concurrency=())
    result = Result(tmp_path / "bench.json", chosen)
    with Servers(chosen, result, tmp_path, timeout=20.0) as servers:
        Run(result, open_source(str(path), None, 0), servers, 20.0)()
    assert sorted(body["messages"][0]["content"] for body in fake.requests) == ["0", "1"]
    assert "3 prompts of each category, but of few 2: the data has no more." in report(result)


def test_an_answer_without_text_has_no_time_to_the_first(fake, url, tmp_path):
    fake.options.text = ""
    chosen = setup(launcher=None, url=url, methods=("ar",), per_category=0, concurrency=(1,), repeats=1)
    result, _ = measure(chosen, tmp_path)
    assert [(load.requests, len(load.latency), load.first) for load in result.loads] == [(3, 3, [])]
    assert "| AR | 1 | – | – |" in report(result)


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "bench.json"
    for content, message in (
        ("{", "not valid JSON"),
        ("{}", "expected a result of `nemotron-diffusion bench`"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            read(path)


def test_an_answer_that_differs_from_the_reference_decoder_ends_the_run(tmp_path, url):
    from nemotron_diffusion_plugin.assets import BUNDLED_CHECKPOINT

    chosen = setup(url=url, methods=("ar",), check=1, model=str(BUNDLED_CHECKPOINT), concurrency=())
    with pytest.raises(
        BenchError, match=r"AR: \d differences from the reference decoder: prompt 0: served 9 tokens"
    ):
        measure(chosen, tmp_path)


def test_everything_it_takes_to_repeat_a_run_is_in_its_file(tmp_path):
    result, _ = measure(setup(methods=("ar",), concurrency=()), tmp_path)
    content = read(result.path)
    assert content["setup"] == json.loads(json.dumps(setup(methods=("ar",), concurrency=()).to_json()))
    assert content["servers"]["modes"]["command"][: len(shlex.split(LAUNCHER))] == shlex.split(LAUNCHER)
    assert {"python", "torch"} <= set(content["versions"])
    assert content["hardware"]["cores"] >= 1
