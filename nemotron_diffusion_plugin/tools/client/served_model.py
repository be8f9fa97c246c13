"""Finding out what a running server serves, and where its engine takes the decoding options of a request."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nemotron_diffusion_plugin.options import DecodingMode
from nemotron_diffusion_plugin.tools.client.counters import has_metrics, read_counters
from nemotron_diffusion_plugin.tools.errors import Failure
from nemotron_diffusion_plugin.tools.extras import require

if TYPE_CHECKING:
    from openai import APIStatusError, OpenAI

REQUEST_FIELDS = {"vllm": "vllm_xargs", "sglang": "custom_params"}
"""Where a request's decoding options go, by the `owned_by` of the engine's list of models."""

_SECONDS_TO_ANSWER = 10.0


@dataclass(frozen=True)
class ServedModel:
    """A running server.

    Attributes:
        url: its address, without `/v1`.
        client: the OpenAI client for it.
        name: the model it serves.
        engine: `vllm` or `sglang`.
        checkpoint: what the server was told to load, a folder or the name on a hub, where it says so.
    """

    url: str
    client: "OpenAI"
    name: str
    engine: str
    checkpoint: str | None = None

    @property
    def request_field(self) -> str:
        """The field of a request in which the engine takes decoding options."""
        return REQUEST_FIELDS[self.engine]


def find_model(url: str) -> ServedModel:
    """Ask the server at `url` what it serves.

    Raises:
        ValueError: the OpenAI client is not installed, or the server is neither engine, or refuses to say.
        ConnectionError: no server answers.

    The key that the server may want is read from the variable OPENAI_API_KEY.
    """
    require("openai")
    from openai import APIConnectionError, APIStatusError, APITimeoutError, OpenAI

    url = url.rstrip("/")
    key = os.environ.get("OPENAI_API_KEY", "none")
    client = OpenAI(base_url=f"{url}/v1", api_key=key, timeout=600, max_retries=0)
    no_list = f"{url}/v1/models: expected a list of models, as vLLM and SGLang give it"
    try:
        answer = client.models.with_raw_response.list(timeout=_SECONDS_TO_ANSWER).http_response.text
    except APITimeoutError as error:
        raise ConnectionError(
            f"the server at {url} did not answer within {_SECONDS_TO_ANSWER:g} s"
        ) from error
    except APIConnectionError as error:
        raise ConnectionError(f"no server answers at {url}; start one: make serve") from error
    except APIStatusError as error:
        hint = "; set OPENAI_API_KEY to its key" if error.status_code in (401, 403) else ""
        raise ValueError(f"{no_list}; got status {error.status_code}{hint}") from error
    try:
        models = [
            (str(model["id"]), str(model.get("owned_by")), model.get("root"))
            for model in json.loads(answer)["data"]
        ]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(no_list) from error
    if not models:
        raise ValueError(f"the server at {url} serves no model")
    name, owner, root = models[0]
    if owner not in REQUEST_FIELDS:
        raise ValueError(
            f"the server at {url} says its model is owned by '{owner}', expected one of "
            f"{', '.join(REQUEST_FIELDS)}: it is neither engine this plugin is for"
        )
    return ServedModel(url, client, name, owner, root)


def check_counters(served: ServedModel) -> None:
    """Raise `ValueError` for a server without the plugin's counters, with what it takes to have them."""
    if served.engine == "sglang" and not has_metrics(served.url):
        raise ValueError(
            f"the SGLang server at {served.url} has no /metrics page to count from; start it with --enable-metrics"
        )
    read_counters(served.url, DecodingMode.AR.value)


@contextmanager
def refusals_in_words(url: str) -> Iterator[None]:
    """Turn what the OpenAI client raises.

    Raises:
        ValueError: the server refused a request of the block.
        Failure: it did not answer it.
    """
    from openai import APIStatusError, OpenAIError

    try:
        yield
    except APIStatusError as error:
        kind = ValueError if error.status_code < 500 else Failure
        raise kind(f"the server at {url} answered {error.status_code}: {_reason(error)}") from error
    except OpenAIError as error:
        raise Failure(f"the server at {url} gave no answer: {error}") from error


def _reason(error: "APIStatusError") -> str:
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    return str(message or error.message)
