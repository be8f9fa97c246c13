import shutil

import pytest

from nemotron_diffusion_plugin.tools.training.random_model import write_random_checkpoint

TINY = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}


@pytest.fixture(scope="session")
def single_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("single")
    write_random_checkpoint(folder, config=TINY)
    return folder


@pytest.fixture(scope="session")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    write_random_checkpoint(folder, config=TINY, shards=3, lora=False)
    return folder


@pytest.fixture
def folder(single_file, tmp_path):
    """A copy of the single-file checkpoint to damage."""
    return shutil.copytree(single_file, tmp_path / "checkpoint")


@pytest.fixture
def sharded_folder(sharded, tmp_path):
    """A copy of the sharded checkpoint to damage."""
    return shutil.copytree(sharded, tmp_path / "checkpoint")
