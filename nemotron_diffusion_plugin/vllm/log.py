"""The logger whose lines vLLM shows."""

import logging

logger = logging.getLogger("vllm.nemotron_diffusion_plugin")
