"""A 500 is the engine's only where its log has an error in which no line of ours stands."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.served import running

BEFORE = 'Traceback (most recent call last):\n  File "/a/nemotron_diffusion_plugin/core.py", line 1\n'
REQUEST = "POST /v1/completions model=/a/nemotron_diffusion_plugin/assets/tiny 500\n"
HEAD = "Traceback (most recent call last):\n"
ENGINE = '  File "/b/site-packages/sglang/srt/io_struct.py", line 966, in __getitem__\n'
PATCH = '  File "/a/patches/nemotron_diffusion_patches/sglang/request_validation.py", line 29\n'
OURS = '  File "/a/nemotron_diffusion_plugin/serving/refusals.py", line 9\n'


@pytest.mark.parametrize(
    ("logged", "is_its"),
    [
        (REQUEST + HEAD + ENGINE, True),
        (HEAD + PATCH + ENGINE, True),
        (HEAD + ENGINE + OURS, False),
        (REQUEST, False),
    ],
)
def test_whose_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: str, is_its: bool) -> None:
    monkeypatch.setattr(running, "LOGGED_WITHIN", 0.3)
    log = tmp_path / "server.log"
    log.write_text(BEFORE + logged)
    server: Any = SimpleNamespace(server=SimpleNamespace(log=log))
    assert running.Running.is_of_the_engine(server, len(BEFORE)) is is_its
