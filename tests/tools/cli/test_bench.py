"""`nemotron-diffusion bench` against stand-ins of servers: bad input is one line, what was measured is kept."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from nemotron_diffusion_plugin.tools.bench.server import free_port
from nemotron_diffusion_plugin.tools.cli import app
from tests.tools.bench.conftest import LAUNCHER

for package in ("httpx", "matplotlib", "openai"):
    pytest.importorskip(package)


def bench(tmp_path, *options):
    return CliRunner().invoke(app, ["bench", "--output", str(tmp_path / "out"), *options])


SMALL = (
    "--launcher",
    LAUNCHER,
    "--per-category",
    "1",
    "--repeats",
    "1",
    "--requests",
    "1",
    "--concurrency",
    "1",
)


def test_a_small_run(tmp_path):
    result = bench(
        tmp_path, *SMALL, "--methods", "ar,diffusion@0.9", "--methods", "ngram", "--categories", "code"
    )
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert set(content["counts"]) == {"ar", "diffusion@0.9", "ngram"}
    assert len(content["loads"]) == 3
    page = (tmp_path / "out" / "report.md").read_text()
    assert "| n-gram | 0.0 % of 1 |" in page
    assert "![accuracy.png](accuracy.png)" in page
    assert (tmp_path / "out" / "accuracy.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--methods", "beam"), "--methods: unknown method 'beam', expected one of ar,"),
        (("--methods", "diffusion@7"), "got the threshold '7', expected a number in (0, 1]"),
        (
            ("--methods", "eagle3", "--model", "elsewhere"),
            "eagle3 needs a head, name its folder with --eagle3",
        ),
        (("--categories", "poems"), "--categories: unknown category 'poems' of tiny"),
        (("--data", "nowhere"), "--data nowhere: no such file or folder"),
        (("--engine", "trt"), "--engine: got 'trt', expected one of vllm, sglang"),
        (("--concurrency", "1,x"), "--concurrency: got 'x', expected whole numbers"),
        (("--concurrency", "0,4"), "--concurrency: got 0, expected 1 to 4096, or 0 alone for none"),
        (("--repeats", "0"), "--repeats: got 0, expected 1 to 1000"),
        (("--url", "http://127.0.0.1:1", "--methods", "ar,ngram"), "one server cannot run modes, ngram"),
        (("--launcher", "no-such-engine serve"), "no program 'no-such-engine'; name another with --launcher"),
    ],
)
def test_bad_input_is_one_line(tmp_path, options, message):
    result = bench(tmp_path, *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.rstrip().rpartition("\n")[2].startswith("error: ")


def test_nobody_listens(tmp_path):
    url = f"http://127.0.0.1:{free_port()}"
    result = bench(tmp_path, "--url", url, "--methods", "ar")
    assert result.exit_code == 2
    assert f"no server answers at {url}; start one" in result.stderr


def test_a_server_that_does_not_start(tmp_path):
    result = bench(tmp_path, *SMALL, "--methods", "ar", "--server-options=--die-at-start")
    assert result.exit_code == 1
    assert "no such checkpoint, says the fake" in result.stderr
    last = result.stderr.rstrip().rpartition("\n")[2]
    assert last.startswith("error: the server ended after")


def test_a_server_that_dies_leaves_tables_of_what_was_measured(tmp_path):
    options = (*SMALL, "--methods", "ar", "--categories", "code,table", "--server-options=--die-after 1")
    result = bench(tmp_path, *options)
    assert result.exit_code == 1
    assert "what was measured is kept in" in result.stderr
    page = (tmp_path / "out" / "report.md").read_text()
    assert "**This run is not finished.**" in page
    assert "| code | 1.00 |\n| table | – |" in page


def test_a_refused_request_is_shown(tmp_path):
    result = bench(tmp_path, *SMALL, "--methods", "ar", "--server-options=--refuse")
    assert result.exit_code == 1
    assert (
        'the server answered 400: {"error": {"message": "no such option"}}; the server is still'
        in result.stderr
    )


def test_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = bench(tmp_path, *SMALL, "--methods", "ar")
    assert result.exit_code == 2
    assert "error: matplotlib is not installed; pip install '.[bench]'" in result.stderr


def test_without_the_extra_the_command_line_loads_and_says_what_to_install(tmp_path):
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('httpx', 'matplotlib', 'openai')))\n"
        "from nemotron_diffusion_plugin.tools.cli import app; app(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "bench", "--output", str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: httpx is not installed; pip install '.[bench]' in a checkout")


def test_a_speculator_that_does_not_report_what_it_accepted(tmp_path):
    result = bench(tmp_path, *SMALL, "--methods", "ngram", "--server-options=--no-histogram")
    assert result.exit_code == 2
    assert "error: n-gram: no answer says how many drafts were accepted" in result.stderr


def test_another_setup_is_refused(tmp_path):
    options = (*SMALL, "--methods", "ar", "--categories", "code")
    assert bench(tmp_path, *options).exit_code == 0
    result = bench(tmp_path, *options, "--seed", "5")
    assert result.exit_code == 2
    assert "is the result of another setup: 'seed' is 0 there and 5 now" in result.stderr
