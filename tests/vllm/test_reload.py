"""vLLM's `reload_weights` offline: whole from disk, and some tensors at a time."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from nemotron_diffusion_plugin.model.names import expected_shapes
from nemotron_diffusion_plugin.model.reader import read_config
from tests.common.cases import Case, Reference
from tests.common.checkpoints import TRAINED
from tests.common.damage import WEIGHTS
from tests.served.inside import Inside
from tests.served.updates import write_other
from tests.vllm.inside.reload import MODES, PROMPT, TOKENS

pytestmark = pytest.mark.engine

FIRST = list(expected_shapes(read_config(TRAINED)))[:20]
"""The embedding, two layers and a norm."""
PART = [*FIRST, "encoder.layers.5.self_attn.q_proj.weight"]
MODULES = ("layers.4.self_attn.o_proj", "layers.5.mlp.", "diffusion_head")


def answers(folder: Path) -> list[list[int]]:
    reference = Reference(folder, 256)
    cases = [Case(PROMPT, TOKENS, {"decoding_mode": mode}, ignore_eos=True) for mode in MODES]
    return [reference.generate(case).token_ids for case in cases]


def test_whole_and_some(tmp_path: Path, inside: Inside) -> None:
    other = write_other(TRAINED, tmp_path / "other")
    new = load_file(other / WEIGHTS)
    more = [name for name in new if any(part in name for part in MODULES)]
    result = inside.run("reload", str(TRAINED), str(other), [FIRST, PART, more])
    assert result["first"] == result["reloaded"] == answers(TRAINED)
    partly = shutil.copytree(TRAINED, tmp_path / "partly")
    expected = []
    for names in (FIRST, more):
        save_file({**load_file(partly / WEIGHTS), **{name: new[name] for name in names}}, partly / WEIGHTS)
        expected.append(answers(Path(shutil.copytree(partly, tmp_path / f"after {len(expected)}"))))
    first, part, last = result["updated"]
    assert first == [expected[0], None]
    assert part[0] == expected[0]
    assert "qkv_proj: got 49152 of 98304 values, expected all: vLLM keeps its weights packed" in part[1]
    assert last == [expected[1], None]
