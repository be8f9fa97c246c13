"""Server-wide settings, read from `--additional-config`, and the options of one request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nemotron_diffusion_plugin.options import OPTION_NAMES, DecodingOptions, OptionError

DENOISE_FORWARDS = "denoise_forwards_per_step"
_DEFAULT_DENOISE_FORWARDS = 3
_ENGINE_KEYS = frozenset({"kv_transfer_params", "ec_transfer_params"})


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What the server was started with.

    Attributes:
        block_size: the model's block length B, the largest a request may ask for.
        defaults: the options of a request that names none.
        denoise_forwards: the most bidirectional forwards between two engine steps while other requests decode.
    """

    block_size: int
    defaults: DecodingOptions
    denoise_forwards: int = _DEFAULT_DENOISE_FORWARDS

    @classmethod
    def read(cls, block_size: int, additional_config: object) -> ServerSettings:
        """Read the settings out of `--additional-config`; names that are not ours belong to others and are left.

        Raises `OptionError` naming field, value and what is allowed.
        """
        raw: Mapping[str, Any] = additional_config if isinstance(additional_config, Mapping) else {}
        defaults = DecodingOptions.for_model(
            block_size, {name: raw[name] for name in OPTION_NAMES if name in raw}
        )
        forwards = raw.get(DENOISE_FORWARDS, _DEFAULT_DENOISE_FORWARDS)
        if isinstance(forwards, bool) or not isinstance(forwards, int) or forwards < 1:
            raise OptionError(f"field '{DENOISE_FORWARDS}': got {forwards!r}, expected an integer >= 1")
        return cls(block_size, defaults, forwards)

    @classmethod
    def of(cls, vllm_config: Any) -> ServerSettings:
        """The settings of a running engine."""
        return cls.read(vllm_config.model_config.hf_config.block_size, vllm_config.additional_config)

    def options(self, sampling_params: Any) -> DecodingOptions:
        """The options of a request: its `vllm_xargs` over the server's defaults.

        Raises `OptionError`; a request that passed admission never does.
        """
        arguments = getattr(sampling_params, "extra_args", None) or {}
        ours = {name: value for name, value in arguments.items() if name not in _ENGINE_KEYS}
        return DecodingOptions.parse(ours, self.defaults, self.block_size)
