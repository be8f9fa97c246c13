"""Finding out what a running server serves, and where its engine takes the decoding options of a request."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openai import OpenAI

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
    """

    url: str
    client: "OpenAI"
    name: str
    engine: str

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
    try:
        from openai import APIConnectionError, APIStatusError, OpenAI
    except ImportError:
        raise ValueError(
            "the OpenAI client is missing: pip install 'nemotron-diffusion-plugin[bench]'"
        ) from None
    url = url.rstrip("/")
    key = os.environ.get("OPENAI_API_KEY", "none")
    client = OpenAI(base_url=f"{url}/v1", api_key=key, timeout=600, max_retries=0)
    try:
        models = client.models.list(timeout=_SECONDS_TO_ANSWER).data
    except APIConnectionError as error:
        raise ConnectionError(f"no server answers at {url}; start one: make serve") from error
    except APIStatusError as error:
        hint = "; set OPENAI_API_KEY to its key" if error.status_code in (401, 403) else ""
        raise ValueError(
            f"{url}/v1/models answered {error.status_code}, expected a list of models{hint}"
        ) from error
    if not models:
        raise ValueError(f"the server at {url} serves no model")
    model = models[0]
    if model.owned_by not in REQUEST_FIELDS:
        raise ValueError(
            f"the server at {url} says its model is owned by '{model.owned_by}', expected one of "
            f"{', '.join(REQUEST_FIELDS)}: it is neither engine this plugin is for"
        )
    return ServedModel(url, client, model.id, model.owned_by)
