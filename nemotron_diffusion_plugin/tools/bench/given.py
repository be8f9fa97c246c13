"""A running server that is measured: which methods it can run, and which version of its engine it is."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException

from nemotron_diffusion_plugin.options import DecodingMode
from nemotron_diffusion_plugin.tools.bench.methods import Method, ServerKind
from nemotron_diffusion_plugin.tools.client.served_model import ServedModel, refusals_in_words

_VERSION_PAGES = ("version", "server_info")
"""Where vLLM and SGLang say which version they are."""


def runnable(served: ServedModel, methods: Sequence[Method]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the methods that a server with all modes can run, and those of the others.

    Raises:
        ValueError: the server speculates in another way, so its methods have to be named.
    """
    options = {"decoding_mode": DecodingMode.DIFFUSION.value}
    try:
        with refusals_in_words(served.url):
            served.client.chat.completions.create(
                model=served.name,
                messages=[{"role": "user", "content": "Hi"}],
                max_tokens=1,
                extra_body={served.request_field: options},
            )
    except ValueError as error:
        raise ValueError(
            f"--methods: {error}; say how this server speculates, with --methods eagle3 or --methods ngram"
        ) from error
    names = [
        [method.name for method in methods if (method.kind is ServerKind.MODES) is own]
        for own in (True, False)
    ]
    return tuple(names[0]), tuple(names[1])


def engine_version(url: str) -> str | None:
    """Return the version that a server says its engine is; None where it says nothing."""
    for page in _VERSION_PAGES:
        try:
            with urllib.request.urlopen(f"{url}/{page}", timeout=10) as answer:
                return str(json.load(answer)["version"])
        except (OSError, HTTPException, ValueError, KeyError, TypeError):
            continue
    return None
