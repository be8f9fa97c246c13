"""Doctor's checks of a checkpoint folder: is it complete and sane."""

from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import track

from nemotron_diffusion_plugin.model.config import NemotronLabsDiffusionConfig
from nemotron_diffusion_plugin.model.errors import CheckpointError
from nemotron_diffusion_plugin.model.lora import DrafterLora
from nemotron_diffusion_plugin.model.reader import checked_files, iterate_tensors, read_config
from nemotron_diffusion_plugin.tools.cli.system_checks import Row
from nemotron_diffusion_plugin.tools.errors import describe
from nemotron_diffusion_plugin.tools.tokenizer import load_plain_tokenizer

END_OF_TURN = "<|im_end|>"


def checkpoint(folder: Path, console: Console) -> list[Row]:
    """Check config, weights, drafter LoRA, tokenizer and chat template; without a config nothing else."""
    if not folder.is_dir():
        return [("folder", False, "no such folder, expected one with a checkpoint")]
    try:
        config = read_config(folder)
    except (CheckpointError, OSError) as error:
        return [("config.json", False, _words(error))]
    shape = (
        f"{config.num_hidden_layers} layers, hidden size {config.hidden_size}, vocabulary {config.vocab_size}"
    )
    rows: list[Row] = [("config.json", True, f"{shape}, blocks of {config.block_size}")]
    rows.append(_row("weights", lambda: _weights(folder, config, console)))
    rows.append(_row("drafter LoRA", lambda: _lora(folder, config)))
    rows.append(_row("tokenizer", lambda: _tokenizer(folder, config)))
    rows.append(_row("chat template", lambda: _template(folder)))
    return rows


def _row(name: str, check: Callable[[], str]) -> Row:
    try:
        return name, True, check()
    except (ValueError, OSError) as error:
        return name, False, _words(error)


def _words(error: Exception) -> str:
    return describe(error) if isinstance(error, OSError) else str(error)


def _weights(folder: Path, config: NemotronLabsDiffusionConfig, console: Console) -> str:
    files = checked_files(folder, config)
    count = sum(len(names) for names in files.values())
    parameters, dtypes, blank = 0, set(), []
    reading = track(iterate_tensors(files), "reading weights", count, console=console, transient=True)
    for name, tensor in reading:
        parameters += tensor.numel()
        dtypes.add(str(tensor.dtype).removeprefix("torch."))
        if not tensor.any():
            blank.append(name)
    if blank:
        raise CheckpointError(f"{len(blank)} tensors are all zero, the first is '{blank[0]}'")
    kinds = ", ".join(sorted(dtypes))
    return f"{count} tensors in {len(files)} file(s), {parameters:,} parameters, {kinds}, all finite"


def _lora(folder: Path, config: NemotronLabsDiffusionConfig) -> str:
    adapter = DrafterLora.load(folder, config)
    if adapter is None:
        return "none (a base model); self-speculation drafts without it"
    idle = [layer for layer, b in enumerate(adapter.b) if not b.any()]
    if idle:
        raise CheckpointError(
            f"the adapter changes nothing in layer {idle[0]}: its B is zero, train it first"
        )
    return f"rank {adapter.rank}, scale {adapter.scale:g}, on every o_proj"


def _tokenizer(folder: Path, config: NemotronLabsDiffusionConfig) -> str:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    tokenizer = load_plain_tokenizer(folder)
    size = tokenizer.get_vocab_size()
    if size > config.vocab_size:
        raise CheckpointError(f"{path} holds {size} tokens, more than vocab_size {config.vocab_size}")
    eos = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    end = tokenizer.token_to_id(END_OF_TURN)
    if end is not None and end not in eos:
        raise CheckpointError(
            f"{END_OF_TURN} is {end}, but eos_token_id is {config.eos_token_id}: answers would not end"
        )
    return f"{size} tokens, mask id {config.mask_token_id} is {tokenizer.id_to_token(config.mask_token_id)!r}"


def _template(folder: Path) -> str:
    if (folder / "chat_template.jinja").is_file():
        return "chat_template.jinja"
    if "chat_template" in _text(folder / "tokenizer_config.json"):
        return "in tokenizer_config.json"
    raise CheckpointError(f"{folder}: no chat_template.jinja; chat requests would be refused")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
