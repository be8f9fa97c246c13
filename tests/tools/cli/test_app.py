import subprocess
import sys

import pytest


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
