"""The tokenizer and the chat template of a checkpoint folder, with errors that name the folder."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FILE = "tokenizer.json"


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer with its chat template; raises `ValueError` where it cannot be read."""
    from transformers import AutoTokenizer

    from nemotron_diffusion_plugin.model.spec import register

    if not (folder / FILE).is_file():
        raise ValueError(f"{folder}: no {FILE}, expected the checkpoint's tokenizer beside its weights")
    register()
    with _any_error_is(f"{folder / FILE}: not readable"):
        return AutoTokenizer.from_pretrained(folder)


def load_plain_tokenizer(folder: Path) -> Any:
    """Return the tokenizer alone, as the tokenizers library has it; raises `ValueError` where it cannot be read."""
    from tokenizers import Tokenizer

    with _any_error_is(f"{folder / FILE}: not readable"):
        return Tokenizer.from_file(str(folder / FILE))


def render(tokenizer: Any, messages: Sequence[dict[str, str]], **options: Any) -> str:
    """Return messages by the chat template; raises `ValueError` where there is none, or it is none."""
    if not tokenizer.chat_template:
        raise ValueError(f"{tokenizer.name_or_path}: no chat_template.jinja, which chat messages need")
    with _any_error_is(f"{tokenizer.name_or_path}: the chat template fails"):
        text: str = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **options
        )
    return text


@contextmanager
def _any_error_is(what: str) -> Iterator[None]:
    """Turn what the libraries, or a template, raise, which has no class of its own, into `ValueError`."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"{what}: {error}") from error
