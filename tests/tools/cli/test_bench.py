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
            ("--methods", "eagle3", "--model", "a/b"),
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


QUICK = (
    "--per-category",
    "1",
    "--categories",
    "code",
    "--concurrency",
    "1",
    "--requests",
    "1",
    "--repeats",
    "1",
)


def test_a_running_server_is_measured_with_what_it_can_run(tmp_path, url):
    result = bench(tmp_path, "--url", url.removeprefix("http://"), *QUICK)
    assert result.exit_code == 0, result.output
    assert "left out, as they need a server of their own: ngram\n" in result.stderr
    content = json.loads((tmp_path / "out" / "bench.json").read_text())
    methods = ["ar", "self_speculation", "self_speculation_without_lora", "auto", "diffusion@0.9"]
    assert list(content["counts"]) == content["setup"]["methods"] == methods
    assert (content["setup"]["engine"], content["setup"]["model"]) == ("vllm", "fake")
    assert content["versions"]["vllm"] == "9.8.7"
    assert not {"torch", "triton"} & {*content["versions"]}, (
        "those of this machine say nothing about the server"
    )


def test_the_report_names_model_and_server(tmp_path, url):
    assert bench(tmp_path, "--url", url, "--methods", "ar", *QUICK).exit_code == 0
    page = (tmp_path / "out" / "report.md").read_text()
    assert page.startswith(f"# fake on vllm, {url}\n")
    assert f"Model: fake. Server: {url}, asked from " in page
    assert "vllm 9.8.7" in page
    result = bench(tmp_path / "started", *SMALL, "--methods", "ar", "--categories", "code", "--model", "ab/c")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "started" / "out" / "report.md").read_text()
    assert page.startswith("# ab/c on vllm, ")
    assert "Model: ab/c. Servers: started by this run." in page


def test_a_model_that_the_server_does_not_serve_is_refused(tmp_path, url):
    result = bench(tmp_path, "--url", url, "--model", "/nope", *QUICK)
    assert result.exit_code == 2
    assert f"--model: got '/nope', but the server at {url} serves 'fake'; leave --model away" in result.stderr
    for model in ("fake", "/the/folder"):
        assert bench(tmp_path, "--url", url, "--model", model, "--methods", "ar", *QUICK).exit_code == 0


def test_a_comparison_needs_a_checkpoint_before_anything_is_asked(tmp_path, fake, url):
    for options in ((), ("--model", "/nope")):
        result = bench(tmp_path, "--url", url, "--methods", "ar", "--check", "1", *options, *QUICK)
        assert result.exit_code == 2
        folder = options[-1] if options else "/the/folder"
        assert f"--model: got '{folder}', expected a checkpoint folder" in result.stderr
    assert fake.requests == []
    assert not (tmp_path / "out").exists()


def test_the_other_engine_is_named(tmp_path, url):
    result = bench(tmp_path, "--url", url, "--engine", "sglang", *QUICK)
    assert result.exit_code == 2
    assert f"--engine: got sglang, but the server at {url} is vllm" in result.stderr


def test_a_server_that_speculates_otherwise_says_which_methods_to_name(tmp_path, fake, url):
    fake.options.refuse = True
    result = bench(tmp_path, "--url", url, *QUICK)
    assert result.exit_code == 2
    assert (
        "answered 400: no such option; say how this server speculates, with --methods eagle3 or"
        in result.stderr
    )


@pytest.mark.parametrize("option", ["--model", "--eagle3"])
def test_a_folder_that_is_not_there_is_refused_before_anything_starts(tmp_path, option):
    result = bench(tmp_path, *SMALL, "--methods", "ar,eagle3", "--eagle3", "a/b", option, "/no/folder")
    assert result.exit_code == 2
    assert f"{option}: got '/no/folder', no such folder" in result.stderr
    assert not (tmp_path / "out").exists()


def test_nothing_is_left_of_a_run_that_could_not_start(tmp_path):
    result = bench(tmp_path, "--launcher", "no-such-engine serve", "--methods", "ar")
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_another_setup_is_refused(tmp_path):
    options = (*SMALL, "--methods", "ar", "--categories", "code")
    assert bench(tmp_path, *options).exit_code == 0
    result = bench(tmp_path, *options, "--seed", "5")
    assert result.exit_code == 2
    assert "is the result of another setup: 'seed' is 0 there and 5 now" in result.stderr
