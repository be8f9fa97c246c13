"""A run at a running server: what the server decides of its setup."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import replace
from http.client import HTTPException

from nemotron_diffusion_plugin.options import DecodingMode
from nemotron_diffusion_plugin.tools.bench.methods import ServerKind
from nemotron_diffusion_plugin.tools.bench.setup import Setup
from nemotron_diffusion_plugin.tools.client.served_model import (
    ServedModel,
    check_counters,
    find_model,
    refusals_in_words,
)

_VERSION_PAGES = ("version", "server_info")
"""Where vLLM and SGLang say which version they are."""


def measured_at(
    url: str, setup: Setup, engine: str | None, model: str | None, methods_are_named: bool
) -> tuple[Setup, list[str]]:
    """Return the setup of a run at the server `url`, and the names of the default methods that it cannot run.

    `engine` and `model` are what the user named, if anything.

    Raises:
        ValueError: these or the methods named are not the server's, or it has no counters.
        ConnectionError: no server answers.
    """
    kinds = {method.kind for method in setup.chosen()}
    if methods_are_named and len(kinds) > 1:
        names = ", ".join(sorted(kind.value for kind in kinds))
        raise ValueError(
            f"--url: one server cannot run {names}; measure them with several runs, or without --url"
        )
    served = find_model(url)
    _check(served, engine, None if setup.check else model)
    methods = setup.chosen()
    if not methods_are_named:
        _check_modes(served)
        methods = [method for method in methods if method.kind is ServerKind.MODES]
    if ServerKind.MODES in kinds and (setup.per_category or setup.check):
        check_counters(served)
    names_kept = tuple(method.name for method in methods)
    found = replace(
        setup,
        engine=served.engine,
        model=served.name,
        methods=names_kept,
        checkpoint=(model or served.checkpoint) if setup.check else None,
        engine_version=_version(served.url),
    )
    return found, [name for name in setup.methods if name not in names_kept]


def _check(served: ServedModel, engine: str | None, model: str | None) -> None:
    if engine not in (None, served.engine):
        raise ValueError(
            f"--engine: got {engine}, but the server at {served.url} is {served.engine}, which reads another field of "
            f"a request; use --engine {served.engine}"
        )
    if model not in (None, served.name, served.checkpoint):
        raise ValueError(
            f"--model: got '{model}', but the server at {served.url} serves '{served.name}'; leave --model away, it is "
            "for --check only"
        )


def _check_modes(served: ServedModel) -> None:
    """Raise ValueError for a server that speculates in another way, which has to be named."""
    try:
        with refusals_in_words(served.url):
            served.client.chat.completions.create(
                model=served.name,
                messages=[{"role": "user", "content": "Hi"}],
                max_tokens=1,
                extra_body={served.request_field: {"decoding_mode": DecodingMode.DIFFUSION.value}},
            )
    except ValueError as error:
        raise ValueError(
            f"--methods: {error}; say how this server speculates, with --methods eagle3 or --methods ngram"
        ) from error


def _version(url: str) -> str | None:
    """Return the version that a server says its engine is; None where it says nothing."""
    for page in _VERSION_PAGES:
        try:
            with urllib.request.urlopen(f"{url}/{page}", timeout=10) as answer:
                return str(json.load(answer)["version"])
        except (OSError, HTTPException, ValueError, KeyError, TypeError):
            continue
    return None
