"""The SGLang plugin: everything that knows SGLang lives in this folder.

`register` is the `sglang.srt.plugins` entry point. SGLang calls it in the main process, every scheduler and the
detokenizer, before arguments are parsed.
"""

from __future__ import annotations


def register() -> None:
    """Register the config, the model class, the algorithm, the flag and the patches with SGLang."""
    from nemotron_diffusion_plugin.sglang.registration import register_all

    register_all()


def diagnose() -> list[tuple[str, bool, str]]:
    """Check that every registration is in place: (what, is it right, detail), one row each."""
    from nemotron_diffusion_plugin.sglang.registration import diagnose_all

    return diagnose_all()
