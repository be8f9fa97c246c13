"""The tables of `docs/patches.md`, from the descriptions of the patches.

`python -m nemotron_diffusion_patches.inventory docs/patches.md` writes them into the page.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from pathlib import Path

from nemotron_diffusion_patches import Description

ENGINES = {"vllm": "vLLM", "sglang": "SGLang"}
"""The folder of each engine's patches, and the engine's name in the heading of its table."""


def descriptions(engine: str) -> list[Description]:
    """Return the descriptions in the modules of one of `ENGINES`, in the order of their files; imports no engine."""
    package = importlib.import_module(f"nemotron_diffusion_patches.{engine}")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names]
    return [one for module in modules for one in vars(module).values() if isinstance(one, Description)]


def table(engine: str) -> str:
    """Return the table of one of `ENGINES` in Markdown, without a line break at its end."""
    return "\n".join([_heading(engine), "| --- | --- | --- | --- | --- |", *map(_row, descriptions(engine))])


def updated(page: str) -> str:
    """Return `page` with the table of every engine made anew.

    Raises ValueError for a page without the heading of a table.
    """
    for engine in ENGINES:
        old = re.compile(rf"^{re.escape(_heading(engine))}$(\n\|.*$)*", re.MULTILINE)
        if not old.search(page):
            raise ValueError(f"got a page without the line {_heading(engine)!r}, where the table belongs")
        new = table(engine)
        page = old.sub(lambda _: new, page)  # noqa: B023 - called within this round
    return page


def _heading(engine: str) -> str:
    name = ENGINES[engine]
    return f"| patch | {name} function | why it is needed | what {name} does | remove when |"


def _row(about: Description) -> str:
    functions = ", ".join(dict.fromkeys(f"`{_short(target)}`" for target in about.targets))
    where = f", in the {about.process}" if about.process else ""
    where += f"; {about.versions} only" if about.versions else ""
    cells = (f"`{about.name}`", functions + where, about.reason, about.upstream, about.remove_when)
    return f"| {' | '.join(cells)} |"


def _short(target: str) -> str:
    """A dotted name from its class on; of a function of a module the last two parts."""
    parts = target.split(".")
    first_class = next((i for i, part in enumerate(parts) if part[0].isupper()), -2)
    return ".".join(parts[first_class:])


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
