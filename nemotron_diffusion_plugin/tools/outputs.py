"""What a command writes: checked and made before the work, whole when it is there, and gone after a failed run."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from nemotron_diffusion_plugin.tools.errors import Failure


class Output:
    """A folder that is being written: files are made in `part` and appear in `folder` when they are published."""

    def __init__(self, folder: Path, part: Path) -> None:
        self.folder, self.part = folder, part

    def publish(self) -> None:
        """Move what was made since the last time to its place, over files of the same names."""
        for file in sorted(path for path in self.part.rglob("*") if path.is_file()):
            target = self.folder / file.relative_to(self.part)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)


@contextmanager
def writing(folder: str | Path) -> Iterator[Output]:
    """Publish what the block makes when it ends well; otherwise only what it has published itself stays.

    Raises:
        OSError: the folder cannot be made or written; nothing has been done yet.
    """
    folder = Path(folder)
    with made(folder):
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder))
        try:
            output = Output(folder, part)
            yield output
            output.publish()
        except SafetensorError as error:  # what its writer raises for a full disk
            raise Failure(f"{folder}: {error}") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def made(folder: Path, wanted: Path | None = None) -> Iterator[None]:
    """Make a folder, with those around it, and remove again what is empty when the block has ended.

    Raises:
        OSError: it cannot be made or written; the message names `wanted`, the folder where that is not given.
    """
    new: list[Path] = []
    try:
        try:
            new += [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            text = f"cannot be written: {error.strerror}; choose another place"
            raise OSError(error.errno, text, str(wanted or folder)) from error
        yield
    finally:
        for path in new:
            with suppress(OSError):  # something is in it
                path.rmdir()


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a file to write, of the same ending, that becomes `path` when the block ends well and is removed otherwise.

    Raises:
        OSError: it cannot be written.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder, expected the name of a file to write")
    if path.exists() and not path.is_file():  # a device or a pipe
        yield path
        return
    with made(path.parent, path):
        part = path.with_name(f".part-{os.getpid()}-{path.name}")
        try:
            yield part
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
