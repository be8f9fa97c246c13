"""Why a server ended, found in what it printed."""

from __future__ import annotations

import re
from collections.abc import Iterable

_BEFORE = re.compile(r"^(\([^)]*\) )?([A-Z]+ [\d-]+ [\d:]+ \[[^\]]*\] |\[[\d-]+ [\d:]+[^\]]*\] )?")
"""What vLLM and SGLang put before a line: the process, the level, the time and the place."""
_TRACEBACK = "Traceback (most recent call last):"
_RAISED = re.compile(r"(?:[A-Za-z_]\w*\.)*(?P<error>[A-Z]\w*)(?:: (?P<message>.*))?$")
_CAUSED_ANOTHER = ("The above exception was", "During handling of the above exception")
_VALIDATION = re.compile(r"\s+(?:Value error, )?(?P<message>.+?)(?: \[type=.*)?$")
_REFUSED_OPTION = re.compile(r".*\berror: (?P<message>.+)")


def reason(lines: Iterable[str]) -> str:
    """Return in one line why the server ended, as far as its log says; empty where it says nothing.

    That is the error of its first traceback, since later ones of other processes follow from it, and of errors that
    caused each other the last; or what the engine's command line refused.
    """
    raised, refused, inside, is_over = "", "", False, False
    lines = [_BEFORE.sub("", line.rstrip()) for line in lines]
    for line, following in zip(lines, [*lines[1:], ""], strict=False):
        if line.endswith(_TRACEBACK):
            if is_over:
                break
            inside = True
        elif inside and (found := _RAISED.match(line)):
            raised, inside, is_over = _words(found, following), False, True
        elif line.startswith(_CAUSED_ANOTHER):
            is_over = False
        elif not raised and (found := _REFUSED_OPTION.match(line)):
            refused = found["message"]
    return (raised or refused).rstrip(".")


def _words(raised: re.Match[str], following: str) -> str:
    """Return class and message of an error; of one of pydantic the message of its first finding."""
    if raised["error"] == "ValidationError" and (finding := _VALIDATION.match(following)):
        return finding["message"]
    return f"{raised['error']}: {raised['message']}" if raised["message"] else raised["error"]
