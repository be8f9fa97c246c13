"""Addresses of servers and names of models, as people write them."""

import re
from pathlib import Path
from urllib.parse import urlsplit

_ON_A_HUB = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_EXPECTED = "expected an address as http://localhost:8000"


def server_address(text: str) -> str:
    """Return an address with its scheme, `http` where none is named, and without `/v1` and slashes at its end.

    Raises `ValueError` for what is no address of a web server.
    """
    address = text.strip() if "://" in text else f"http://{text.strip()}"
    try:
        parts = urlsplit(address)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, a bracket that is not closed
        is_good = False
    if (
        not is_good
        or any(c.isspace() or not c.isprintable() for c in address)
        or parts.query
        or parts.fragment
    ):
        raise ValueError(f"got '{text}', {_EXPECTED}")
    return address.rstrip("/").removesuffix("/v1").rstrip("/")


def check_model(option: str, model: str) -> None:
    """Refuse a path that leads nowhere, which an engine would look for on a hub and report a minute later.

    Raises `ValueError` for what is neither a folder nor of the form owner/name.
    """
    if not (model and Path(model).is_dir()) and not _ON_A_HUB.fullmatch(model):
        raise ValueError(
            f"{option}: got '{model}', no such folder, and not the name of a hub model (owner/name)"
        )
