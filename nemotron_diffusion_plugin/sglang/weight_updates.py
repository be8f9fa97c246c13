"""Updates of weights in the scheduler process: checked first, answered instead of ending it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron_diffusion_plugin.sglang.log import logger

Answer = tuple[bool, str]
"""Whether the weights are new, and what the client is told."""


def from_disk(updater: Any, path: str, run: Callable[[], Answer]) -> Answer:
    """Let SGLang update a model of ours from a folder or a hub repository, once all of it has been checked."""
    loader = _loader(updater)
    if loader is None:
        return run()
    from nemotron_diffusion_plugin.serving.lora_files import Source

    config, before, state = updater.model_config, updater.model_config.model_path, "as they were"
    try:
        with loader.update_from(Source(path, config.revision)):
            state = (
                "partly new: update from a whole checkpoint before the next request, or start the server anew"
            )
            answer = run()
            if not answer[0]:
                raise RuntimeError(answer[1])
            return answer
    except Exception as error:
        config.model_path = before
        return False, f"{_said(error)}. The weights are {state}."


def from_tensor(updater: Any, run: Callable[[], Answer]) -> Answer:
    """Let SGLang update a model of ours from tensors, and answer with what went wrong."""
    if _loader(updater) is None:
        return run()
    try:
        return run()
    except Exception as error:
        return False, _said(error)


def _said(error: Exception) -> str:
    """What the client is told, and SGLang logs; the log also gets where an error comes from that is not ours."""
    if isinstance(error, ValueError):
        return str(error)
    logger.error("update of the weights failed", exc_info=error)
    return f"{type(error).__name__}: {error}"


def _loader(updater: Any) -> Any:
    """The loader of a model of ours, None for another one's."""
    from nemotron_diffusion_plugin.serving.weights import CheckpointLoader

    loader = getattr(updater.get_model(), "loader", None)
    return loader if isinstance(loader, CheckpointLoader) else None
