"""What is written appears as a whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nemotron_diffusion_plugin.tools.outputs import new_file, writing


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def fail_while_writing(folder: Path, *published: str) -> None:
    with writing(folder) as output:
        for name in published:
            (output.part / name).touch()
        output.publish()
        (output.part / "half").touch()
        raise KeyError


def fail_in_a_file(path: Path) -> None:
    with new_file(path) as part:
        part.write_text("half")
        raise KeyError


def test_a_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    with writing(tmp_path / "a" / "b") as output:
        (output.part / "sub").mkdir()
        (output.part / "sub" / "file").write_text("new")
        assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == [output.part.name]
    assert names(tmp_path) == ["a", "a/b", "a/b/sub", "a/b/sub/file"]


def test_after_an_error_only_what_was_published_stays(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        fail_while_writing(tmp_path / "other" / "one")
    assert names(tmp_path) == []
    with pytest.raises(KeyError):
        fail_while_writing(tmp_path / "new", "whole")
    assert names(tmp_path) == ["new", "new/whole"]


def test_a_file_keeps_its_content_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_text("old")
    with pytest.raises(KeyError):
        fail_in_a_file(path)
    assert (names(tmp_path), path.read_text()) == (["picture.png"], "old")
    with new_file(path) as part:
        part.write_text("new")
        assert part.suffix == ".png"
    assert (names(tmp_path), path.read_text()) == (["picture.png"], "new")


def test_a_device_is_written_and_not_replaced() -> None:
    with new_file(Path(os.devnull)) as part:
        part.write_text("gone")
    assert not Path(os.devnull).is_file()
