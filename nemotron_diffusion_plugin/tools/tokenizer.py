"""The tokenizer and the chat template of a checkpoint folder, with errors that name the folder."""

from collections.abc import Sequence
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
    try:
        return AutoTokenizer.from_pretrained(folder)
    except MemoryError:
        raise
    except Exception as error:  # the library raises no narrower class
        raise ValueError(f"{folder / FILE}: not readable: {error}") from error


def load_plain_tokenizer(folder: Path) -> Any:
    """Return the tokenizer alone, as the tokenizers library has it; raises `ValueError` where it cannot be read."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(folder / FILE))
    except MemoryError:
        raise
    except Exception as error:  # the library raises no narrower class
        raise ValueError(f"{folder / FILE}: not readable: {error}") from error


def render(tokenizer: Any, messages: Sequence[dict[str, str]], **options: Any) -> str:
    """Return messages by the chat template; raises `ValueError` where there is none, or it is none."""
    if not tokenizer.chat_template:
        raise ValueError(f"{tokenizer.name_or_path}: no chat_template.jinja, which chat messages need")
    try:
        text: str = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **options
        )
    except MemoryError:
        raise
    except Exception as error:  # whatever the template does
        raise ValueError(f"{tokenizer.name_or_path}: the chat template fails: {error}") from error
    return text
