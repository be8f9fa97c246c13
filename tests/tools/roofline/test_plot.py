import sys

import pytest

from nemotron_diffusion_plugin.model.hardware import GPUS
from nemotron_diffusion_plugin.model.shapes import PUBLISHED
from nemotron_diffusion_plugin.tools.roofline import plot as module
from nemotron_diffusion_plugin.tools.roofline.points import Point
from nemotron_diffusion_plugin.tools.roofline.report import Setting, make_report


def report(**changes):
    setting = Setting(PUBLISHED["8B"], GPUS["h200"], **changes)
    return make_report(setting, [Point("ar", 4, 700.0), Point("self_speculation", 128, 3000.0, 4096)])


def test_without_matplotlib_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"matplotlib is not installed; pip install '\.\[bench\]'"):
        module.plot(report(), tmp_path / "roofline.png")
    assert not list(tmp_path.iterdir())


def test_requests_on_the_axis():
    assert module._steps(5) == [1, 2, 3, 4, 5]
    assert module._steps(1000)[-1] == 1000
    assert len(module._steps(2**31)) < 600


@pytest.mark.parametrize("contexts", [(0,), (0, 8192), (10**9,)])
def test_a_picture(tmp_path, contexts):
    pytest.importorskip("matplotlib")
    module.plot(report(contexts=contexts), tmp_path / "roofline.png")
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")


def test_unknown_format(tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="xyz"):
        module.plot(report(), tmp_path / "roofline.xyz")
