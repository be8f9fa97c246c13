import pytest
from typer.testing import CliRunner

from nemotron_diffusion_plugin.tools.cli import app
from nemotron_diffusion_plugin.tools.training.random_model import write_random_checkpoint
from tests.tools.bench.conftest import fake, url  # noqa: F401


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "checkpoint"
    write_random_checkpoint(folder, config={"num_hidden_layers": 2})
    return folder


@pytest.fixture
def run():
    """Run the command line; wide enough that tables do not wrap."""

    def invoke(*arguments, **options):
        return CliRunner().invoke(
            app, [str(argument) for argument in arguments], env={"COLUMNS": "400"}, **options
        )

    return invoke


@pytest.fixture
def fails(run):
    """Run the command line on bad input and return its one-line error."""

    def invoke(*arguments):
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        lines = result.stderr.strip().splitlines()
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("error: ")
        return lines[0]

    return invoke
