import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemotron_diffusion_plugin import __version__
from nemotron_diffusion_plugin.tools.errors import STATUSES


@pytest.mark.parametrize("command", ["generate", "make-checkpoint", "train-tiny", "doctor"])
def test_every_option_has_a_help_text(run, command):
    result = run(command, "--help")
    assert result.exit_code == 0
    options = [line for line in result.output.splitlines() if line.strip(" │").startswith(("--", "*"))]
    assert options
    for line in options:
        assert len(line.strip(" │").split()) > 3, line


def test_no_arguments_shows_the_commands(run):
    result = run()
    for command in ("generate", "make-checkpoint", "train-tiny", "doctor"):
        assert command in result.output


def test_help_does_not_wait_for_torch():
    check = (
        "import sys, nemotron_diffusion_plugin.tools.cli;"
        "print({'torch', 'transformers', 'vllm', 'sglang'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, text=True).stdout
    assert shown.strip() == "set()"


def test_unknown_command_and_option(run):
    assert run("serve").exit_code == 2
    assert run("generate", "x", "--modus", "ar").exit_code == 2


def test_the_version(run):
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"nemotron-diffusion {__version__}\n")


def test_a_mistyped_command_or_option_is_one_line(run):
    for arguments in (
        ("dance",),
        ("generate", "x", "--modus", "ar"),
        ("generate",),
        ("demo", "--max-tokens", "x"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2
        [line] = result.stderr.splitlines()
        assert line.startswith("error: ")
        assert line.endswith(" --help")


def test_help_says_what_the_statuses_mean(run):
    shown = " ".join(run("--help").output.split())
    assert STATUSES in shown


@pytest.mark.parametrize("lines", [0, 1])
def test_a_reader_that_goes_away_is_no_error(lines):
    """As `nemotron-diffusion … | head`."""
    code = "from nemotron_diffusion_plugin.tools.cli import app; app()"
    command = [sys.executable, "-c", code, "roofline"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(lines):
            process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_that_is_full_is_a_failure():
    code = "from nemotron_diffusion_plugin.tools.cli import app; app()"
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", code, "roofline"]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, "error: No space left on device\n")


def test_a_terminal_that_knows_few_letters_is_no_error():
    code = "from nemotron_diffusion_plugin.tools.cli import app; app()"
    command = [sys.executable, "-c", code, "roofline", "--gpu", "h100", "--concurrency", "64"]
    variables = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    assert (result.returncode, result.stderr) == (0, "")
    assert "\\u2013" in result.stdout
