"""Reads command lines as `sglang.launch_server` does and prints as JSON why each was refused, null where it was not.

Arguments: a JSON array of command lines, each an array of words.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys

from sglang.srt.plugins import load_plugins
from sglang.srt.server_args import prepare_server_args


def refusal(words: list[str]) -> str | None:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            prepare_server_args(words).resolve_once()
    except SystemExit:
        return said.getvalue()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        os.environ.pop("NEMOTRON_DIFFUSION_OPTIONS", None)
    return None


def main() -> None:
    [lines] = sys.argv[1:]
    load_plugins()
    print(json.dumps([refusal(words) for words in json.loads(lines)]))


if __name__ == "__main__":
    main()
