"""The commands and their parameters, as they are declared."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from nemotron_diffusion_plugin.tools.cli import app


@dataclass(frozen=True)
class Parameter:
    """One parameter: its name, the type of one value, and whether it names something to write."""

    name: str
    type: Any
    is_argument: bool
    is_required: bool
    is_output: bool
    flag: str

    @property
    def is_number(self) -> bool:
        return self.type in (int, float)

    @property
    def is_input(self) -> bool:
        """Whether it may name something to read."""
        return self.type in (Path, str) and not self.is_output

    @property
    def is_address(self) -> bool:
        """Whether it names a server."""
        return self.name == "url"

    def words(self, value: object) -> list[str]:
        """Return how the command line says a value; in one word, as it may begin with a dash."""
        return ["--", str(value)] if self.is_argument else [f"{self.flag}={value}"]


@dataclass(frozen=True)
class Command:
    """One command: its name, what it calls, and its parameters."""

    name: str
    function: Callable[..., None]
    parameters: tuple[Parameter, ...]


def commands() -> list[Command]:
    """Return all commands of the command line."""
    found = []
    for registered in app.registered_commands:
        assert registered.callback is not None
        parameters = inspect.signature(registered.callback).parameters.values()
        name = registered.name or registered.callback.__name__.replace("_", "-")
        found.append(
            Command(name, inspect.unwrap(registered.callback), tuple(_parameter(one) for one in parameters))
        )
    return found


def cases(wanted: Callable[[Parameter], bool]) -> list[Any]:
    """Return each command with each of its parameters that are wanted."""
    return [(command, one) for command in commands() for one in command.parameters if wanted(one)]


def names(case: object) -> str:
    """Return what a command or a parameter is called in the name of a test."""
    return str(getattr(case, "name", case))


def _parameter(declared: inspect.Parameter) -> Parameter:
    kind, info = get_args(declared.annotation)[:2]
    kind = next(one for one in _members(kind) if one is not types.NoneType)
    if get_origin(kind) is list:
        kind = get_args(kind)[0]
    flags = [word for word in info.param_decls or () if word.startswith("--")]
    return Parameter(
        declared.name,
        Path if isinstance(kind, type) and issubclass(kind, Path) else kind,
        is_argument=type(info).__name__ == "ArgumentInfo",
        is_required=declared.default is inspect.Parameter.empty,
        is_output=bool(info.writable),
        flag=flags[0] if flags else f"--{declared.name.replace('_', '-')}",
    )


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
