import json
import sys

import pytest
from typer.testing import CliRunner

from nemotron_diffusion_plugin.assets import BUNDLED_CHECKPOINT
from nemotron_diffusion_plugin.tools.cli import app


def rows(output, title):
    """Return the cells of the table under `title`, rows only."""
    lines = output[output.index(title) :].splitlines()
    table = lines[: next(index for index, line in enumerate(lines) if line.startswith("└"))]
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in table if line.startswith("│")]


def test_the_example(run):
    result = run("roofline", "--model", "8B", "--gpu", "h200", "--acceptance", "6.82")
    assert result.exit_code == 0, result.output
    assert "reads 15.90 GB of weights (bf16) and 139,264 bytes of KV" in result.output
    first, *_ = rows(result.output, "At most, tokens per second")
    assert first == ["0", "1", "302", "788", "1029", "2058", "402"]
    first, *_ = rows(result.output, "At least, milliseconds of one cycle")
    assert first == ["0", "1", "3.31", "3.49", "6.63", "3.31", "16.98"]
    assert ["0", "32", "6.4", "4.8"] in rows(result.output, "A block costs no more than one row")
    assert "Computed, not measured" in result.output


def test_every_option_changes_what_is_computed(run):
    def numbers(*arguments):
        content = json.loads(run("roofline", "--json", *arguments).stdout)
        return content["ceilings"], content["forwards"], content["free_block"]

    usual = numbers()
    for option in (
        "--model 3B",
        f"--model {BUNDLED_CHECKPOINT}",
        "--gpu b200",
        "--gpu custom --bandwidth 2 --tflops 300",
        "--bandwidth 4.2",
        "--tflops 700",
        "--acceptance 5.46",
        "--eagle-acceptance 2",
        "--eagle-drafts 5 --concurrency 64",
        "--eagle-passes 3",
        "--tpf 2.57",
        "--block-size 16",
        "--lora-rank 128",
        "--context 100",
        "--concurrency 3",
        "--efficiency 0.75",
        "--compute-efficiency 0.75",
        "--weight-dtype fp8",
        "--weight-dtype int4",
        "--kv-dtype fp8",
    ):
        assert numbers(*option.split()) != usual, option


def test_lists_with_commas_or_repeated(run):
    arguments = ["--context", "4096", "--context", "0,10", "--concurrency", "2,1,2"]
    content = json.loads(run("roofline", "--json", *arguments).stdout)
    pairs = [(row["context"], row["concurrency"]) for row in content["ceilings"]]
    assert pairs == [(0, 1), (0, 2), (10, 1), (10, 2), (4096, 1), (4096, 2)]


def test_too_little_memory_is_said(run):
    result = run("roofline", "--gpu", "h100", "--context", "8192", "--concurrency", "64")
    (row,) = rows(result.output, "At most, tokens per second")
    assert row == ["8192", "64", "no memory", "–", "–", "–", "–"]


def test_measured_points_beside_their_ceilings(run, tmp_path):
    point = {"method": "ar", "concurrency": 1, "tokens_per_second": 151, "label": "[mine] 1"}
    (tmp_path / "points.json").write_text(
        json.dumps({"schema": "nemotron-diffusion/points/1", "points": [point]})
    )
    result = run("roofline", "--measured", tmp_path / "points.json")
    assert rows(result.output, "Measured") == [["AR", "0", "1", "151", "302", "50%", "[mine] 1"]]


@pytest.mark.parametrize("columns", ["20", "40", "80"])
def test_a_narrow_terminal_cuts_nothing_off(columns):
    line = ["roofline", "--context", "0,8192,2147483647", "--tpf", "2.5"]
    shown = CliRunner().invoke(app, line, env={"COLUMNS": columns}).output
    assert "…" not in shown
    assert "2147483647" in shown
    first, *_ = rows(shown, "At most, tokens per second")
    assert first == ["0", "1", "302", "788", "1029", "2058", "402", "754"]


def test_a_picture_that_cannot_be_drawn_leaves_what_was_there(fails, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "mine.foo").write_text("mine")
    assert "Format 'foo' is not supported" in fails("roofline", "--plot", tmp_path / "mine.foo")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("mine.foo", "mine")]


def test_plot(run, tmp_path):
    pytest.importorskip("matplotlib")
    assert run("roofline", "--plot", tmp_path / "roofline.png").exit_code == 0
    assert (tmp_path / "roofline.png").stat().st_size > 1000


def test_plot_without_matplotlib(fails, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    error = fails("roofline", "--plot", tmp_path / "roofline.png")
    assert "matplotlib is not installed; pip install '.[bench]'" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--model 9B", "--model: got '9B', expected 3B, 8B, 14B or a folder"),
        ("--gpu v100", "--gpu: got 'v100', expected a100, h100, h200, b200 or custom"),
        ("--gpu custom", "--gpu custom: expected --bandwidth"),
        ("--bandwidth 0", "--bandwidth: got 0.0"),
        ("--acceptance 40", "--acceptance: got 40.0, expected 1 to 32"),
        ("--context 8k", "--context: got '8k', expected whole numbers"),
        ("--context -1", "--context: got '-1', expected whole numbers"),
        ("--concurrency 1,,2", "--concurrency: got '', expected whole numbers"),
        ("--concurrency 0", "--concurrency: got 0, expected 1"),
        ("--efficiency 75", "--efficiency: got 75.0, expected a share from 0.001 to 1"),
        ("--weight-dtype fp16", "--weight-dtype: got 'fp16', expected bf16, fp8, int4"),
        ("--kv-dtype int4", "--kv-dtype: got 'int4', expected bf16, fp8"),
        ("--measured missing.json", "missing.json"),
    ],
)
def test_nonsense_is_one_line(fails, arguments, message):
    assert message in fails("roofline", *arguments.split())


def test_every_option_has_a_help_text(run):
    result = run("roofline", "--help")
    assert result.exit_code == 0
    options = [line for line in result.output.splitlines() if line.strip(" │").startswith("--")]
    assert options
    for line in options:
        assert len(line.strip(" │").split()) > 4, line
