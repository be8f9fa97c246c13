"""An address is completed, and one or a model that cannot be is refused, before anybody is asked."""

from pathlib import Path

import pytest

from nemotron_diffusion_plugin.tools.client.names import check_model, server_address


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("localhost:8123", "http://localhost:8123"),
        ("127.0.0.1:8123/", "http://127.0.0.1:8123"),
        ("[::1]:8123", "http://[::1]:8123"),
        ("host", "http://host"),
        (" http://host:1/v1/ ", "http://host:1"),
        ("https://host/prefix", "https://host/prefix"),
        ("https://host/prefix/v1", "https://host/prefix"),
    ],
)
def test_the_scheme_is_added_and_v1_is_not_needed(given: str, address: str) -> None:
    assert server_address(given) == address


@pytest.mark.parametrize(
    "given",
    [
        "",
        " ",
        "http://",
        "ftp://host",
        "host:port",
        "host:99999",
        "host:0",
        "[::1",
        "a b",
        "/no/such/file",
        "host?x=1",
    ],
)
def test_what_is_no_address(given: str) -> None:
    with pytest.raises(ValueError, match="expected an address as http://localhost:8000"):
        server_address(given)


def test_a_model_is_a_folder_or_a_name_on_a_hub(tmp_path: Path) -> None:
    for model in (str(tmp_path), "nvidia/Nemotron-Labs-Diffusion-8B"):
        check_model("--model", model)
    for model in (str(tmp_path / "none"), "./none", "none", "a/b/c", ""):
        with pytest.raises(
            ValueError, match=f"--model: got '{model}', no such folder, and not the name of a hub"
        ):
            check_model("--model", model)
