"""Every command under bad input: one line that says what was wrong, the exit status, and nothing left behind.

Commands and parameters are found in the command line itself (`discovered.py`), so a new one is tested too. One that
takes long, or never ends by itself, gets a line in `QUICK`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import nemotron_diffusion_plugin
from nemotron_diffusion_plugin.model.lora import DrafterLora
from nemotron_diffusion_plugin.reference.model import ReferenceModel
from nemotron_diffusion_plugin.tools.bench.server import free_port
from nemotron_diffusion_plugin.tools.extras import EXTRAS
from nemotron_diffusion_plugin.tools.training import recipe as tiny
from nemotron_diffusion_plugin.tools.training.eagle3 import recipe as eagle3
from nemotron_diffusion_plugin.tools.watch.server import WatchServer
from tests.tools.bench import fake_server
from tests.tools.cli.discovered import Command, Parameter, cases, commands, names

for package in ("httpx", "matplotlib", "openai"):
    pytest.importorskip(package)

PACKAGE = str(Path(nemotron_diffusion_plugin.__file__).parent)
OUTPUTS_ARE_CLEANED_UP_HERE = str(Path(PACKAGE) / "tools" / "outputs.py")
HUGE = 10**30
QUICK = {
    "generate": ("--max-new-tokens=1",),
    "make-checkpoint": ("--set=num_hidden_layers=1",),
    "train-tiny": ("--eval-per-category=0",),
    "train-eagle3": ("--eval-per-category=0",),
    "doctor": ("--no-engines",),
    "watch": ("--port=0",),
    "bench": ("--per-category=1", "--categories=code", "--concurrency=0", "--methods=ar", "--seed=3"),
}
KEEPS_WHAT_IS_FINISHED = ("train-tiny", "bench")
every_command = pytest.mark.parametrize("command", commands(), ids=names)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The commands run in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused is refused before anything is trained."""

    def train(*_: object, **__: object) -> None:
        raise AssertionError("a training has begun")

    monkeypatch.setattr(torch.Tensor, "backward", train)


@pytest.fixture
def short_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings end at once; what they prepare, write and say is as always."""

    def adapter(model: ReferenceModel, encoder: object, *, seed: int, **_: object) -> DrafterLora:
        return DrafterLora.create(model.config, 2, 2, torch.Generator().manual_seed(seed))

    def head(
        model: ReferenceModel, encoder: object, settings: eagle3.Settings, *, seed: int, **_: object
    ) -> Any:
        return eagle3.new_head(model, settings, seed)

    monkeypatch.setattr(tiny, "train_base", lambda *_, **__: "done")
    monkeypatch.setattr(tiny, "train_drafter", adapter)
    monkeypatch.setattr(eagle3, "train_head", head)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A stand-in of a model's server; a server of a command ends as by Ctrl-C."""

    def interrupted(self: WatchServer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(WatchServer, "serve_forever", interrupted)
    with fake_server.Fake(0, fake_server.options([])) as fake:
        threading.Thread(target=fake.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{fake.server_address[1]}"
        fake.shutdown()


def words(
    command: Command, changed: Parameter | None = None, value: object = None, url: str = ""
) -> list[str]:
    """Return a command line that would do, with one parameter changed; servers are at `url`."""
    given, arguments = [command.name, *QUICK.get(command.name, ())], []
    for one in command.parameters:
        if one is changed:
            said = one.words(value)
        elif one.is_required or (one.is_output and one.name != "plot"):
            said = one.words("new/output" if one.is_output else "hello")
        elif one.is_address and url:
            said = one.words(url)
        else:
            continue
        (arguments if one.is_argument else given).extend(said)
    return given + arguments


def tree(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def ended(result: Any, *statuses: int) -> str:
    """Check how a command ended, and return its error, if it has one: a single line, the last one."""
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    assert result.exit_code in statuses, result.output
    if not result.exit_code or not result.stderr:
        return ""
    *before, last = result.stderr.rstrip().splitlines()
    assert last.startswith("error: ") or (last.startswith("stopped") and result.exit_code == 130)
    assert not any(line.startswith("error") for line in before)
    for raw in ("[Errno", "prompt_ids", "Error("):
        assert raw not in last
    return str(last)


@pytest.mark.parametrize(("command", "parameter"), cases(lambda one: one.is_number), ids=names)
@pytest.mark.parametrize("value", [HUGE, -HUGE, "nan", "inf", "many", ""])
def test_an_absurd_number(
    run: Any, folder: Path, no_training: None, command: Command, parameter: Parameter, value: object
) -> None:
    assert parameter.flag in ended(run(*words(command, parameter, value)), 2)
    assert tree(folder) == []


@pytest.mark.parametrize("line", ["roofline --context", "roofline --concurrency", "bench --concurrency"])
def test_numbers_with_commas_are_bounded_too(run: Any, line: str) -> None:
    command, option = line.split()
    assert option in ended(run(command, f"{option}=1,{HUGE}"), 2)


@pytest.mark.parametrize(("command", "parameter"), cases(lambda one: one.is_output), ids=names)
@pytest.mark.parametrize("place", ["file", "file/x", "folder/file/x/y", "/proc/none/x"])
def test_an_output_that_cannot_be_written(
    run: Any, folder: Path, no_training: None, server: str, command: Command, parameter: Parameter, place: str
) -> None:
    if place == "file" and parameter.name == "plot":
        place = "folder"
    (folder / "folder").mkdir()
    for name in ("file", "folder/file"):
        (folder / name).write_text("mine")
    before = tree(folder)
    assert place in ended(run(*words(command, parameter, place, server)), 2)
    assert tree(folder) == before
    assert (folder / "file").read_text() == "mine"


@pytest.mark.parametrize(("command", "parameter"), cases(lambda one: one.is_input), ids=names)
@pytest.mark.parametrize("kind", ["missing", "binary", "empty", "folder", "no text"])
def test_an_input_of_the_wrong_kind(
    run: Any, folder: Path, no_training: None, command: Command, parameter: Parameter, kind: str
) -> None:
    (folder / "folder").mkdir()
    (folder / "binary").write_bytes(bytes(range(256)))
    (folder / "empty").touch()
    before = tree(folder)
    given = "\udcff" if kind == "no text" else str(folder / kind)
    # A text may be anything: then the command does what it should, which is checked elsewhere.
    statuses = (1, 2) if parameter.type is Path else (0, 1, 2)
    result = run(*words(command, parameter, given, f"http://127.0.0.1:{free_port()}"))
    ended(result, *statuses)
    if result.exit_code:
        assert tree(folder) == before


@pytest.mark.parametrize(("command", "parameter"), cases(lambda one: one.is_address), ids=names)
@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:PORT", "127.0.0.1:PORT", "a.invalid", "http://", "x:y", "/a"]
)
def test_no_server(run: Any, folder: Path, command: Command, parameter: Parameter, address: str) -> None:
    given = address.replace("PORT", str(free_port()))
    assert given in ended(run(*words(command, parameter, given)), 2)
    assert tree(folder) == []


@pytest.mark.parametrize(("command", "parameter"), cases(lambda one: one.is_address), ids=names)
def test_a_server_of_something_else(
    run: Any, folder: Path, monkeypatch: Any, server: str, command: Command, parameter: Parameter
) -> None:
    monkeypatch.setattr(fake_server.Handler, "do_GET", lambda self: self._answer(b"<html>"))
    assert "expected a list of models" in ended(run(*words(command, parameter, server)), 2)
    assert tree(folder) == []


class Faulty:
    """Raises an error at one call of a function of the package, counted from the beginning of a command."""

    def __init__(
        self, command: Command, place: float = float("inf"), error: type[BaseException] = ValueError
    ) -> None:
        self.begin = command.function.__code__
        self.place, self.error = place, error
        self.calls: int | None = None

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if event != "call":
            return
        if frame.f_code is self.begin:
            self.calls = 0
        file = frame.f_code.co_filename
        if self.calls is None or not file.startswith(PACKAGE) or file == OUTPUTS_ARE_CLEANED_UP_HERE:
            return
        self.calls += 1
        if self.calls == self.place:
            raise self.error

    def around(self, run: Callable[[], Any]) -> Any:
        sys.setprofile(self)
        try:
            return run()
        finally:
            sys.setprofile(None)


@every_command
def test_interrupted_or_out_of_memory_at_any_place(
    run: Any, folder: Path, short_trainings: None, server: str, command: Command
) -> None:
    whole = Faulty(command)
    ended(whole.around(partial(run, *words(command, url=server))), 0, 1)
    assert whole.calls
    made = [name.replace("new/output", "again") for name in tree(folder / "new" / "output")]
    for error, statuses in ((KeyboardInterrupt, (130,)), (MemoryError, (1,))):
        for share in (0.0, 0.3, 0.7, 0.95):
            shutil.rmtree(folder / "again", ignore_errors=True)
            given = [word.replace("new/output", "again") for word in words(command, url=server)]
            faulty = Faulty(command, 1 + int(share * (whole.calls - 1)), error)
            ended(faulty.around(partial(run, *given)), *statuses)
            left = tree(folder / "again")
            assert left in ([], made) or command.name in KEEPS_WHAT_IS_FINISHED
            assert not any(".part" in name for name in left)


@every_command
def test_without_optional_packages(folder: Path, command: Command) -> None:
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({tuple(EXTRAS)}))\n"
        "from nemotron_diffusion_plugin.tools.cli import app; app(sys.argv[1:])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *words(command)], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in result.stderr
    assert result.returncode in (0, 1, 2), result.stderr
    if result.returncode == 2:
        assert "is not installed; pip install '.[" in result.stderr
    assert tree(folder) == []
