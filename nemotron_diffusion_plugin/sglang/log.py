"""The logger whose lines SGLang shows."""

import logging

logger = logging.getLogger("sglang.nemotron_diffusion_plugin")
