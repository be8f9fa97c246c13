"""The check of a file's tensor names and shapes against the published ones (docs/model.md, 1.3)."""

from collections.abc import Collection, Mapping

from nemotron_diffusion_plugin.model.config import NemotronLabsDiffusionConfig
from nemotron_diffusion_plugin.model.errors import CheckpointError
from nemotron_diffusion_plugin.model.spec import Shapes, spec_of

_SHOWN = 4


def expected_shapes(config: NemotronLabsDiffusionConfig) -> Shapes:
    """Return every tensor name of a checkpoint with its shape."""
    return spec_of(config).tensors(config)


def check_names(found: Collection[str], config: NemotronLabsDiffusionConfig) -> None:
    """Raise `CheckpointError` unless `found` holds exactly the expected names; KV scales may come on top."""
    spec, expected = spec_of(config), expected_shapes(config)
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected and not spec.is_kv_scale(name)]
    if not missing and not unknown:
        return
    prefix = _foreign_prefix(missing, unknown, spec.decoder)
    if prefix is not None:
        raise CheckpointError(
            f"the names carry another prefix ({prefix}): found {_some(unknown)}; expected {_some(missing)}"
            ". Rename the tensors to the published names."
        )
    problems = []
    if missing:
        problems.append(f"{len(missing)} tensors are missing: expected {_some(missing)}")
    if unknown:
        problems.append(f"{len(unknown)} tensors are unknown: found {_some(unknown)}")
    known = f"config.json describes {config.num_hidden_layers} layers, that is {len(expected)} tensors"
    raise CheckpointError(f"{'; '.join(problems)}. {known}; the file holds {len(found)}.")


def check_shapes(found: Mapping[str, tuple[int, ...]], config: NemotronLabsDiffusionConfig) -> None:
    """Raise `CheckpointError` unless names and shapes are the expected ones."""
    check_names(found, config)
    wrong = [
        f"{name}: found {list(found[name])}, expected {list(shape)}"
        for name, shape in expected_shapes(config).items()
        if tuple(found[name]) != shape
    ]
    if wrong:
        raise CheckpointError(
            f"{len(wrong)} tensors have another shape than config.json says: {'; '.join(wrong[:_SHOWN])}"
        )


def _foreign_prefix(missing: list[str], unknown: list[str], decoder: str) -> str | None:
    for name in unknown:
        for wanted in missing:
            if name.endswith(f".{wanted}"):
                return f"'{name.removesuffix(wanted)}' before the published name"
        for wanted in missing:
            bare = wanted.removeprefix(decoder)
            if bare != wanted and (name == bare or name.endswith(f".{bare}")):
                return f"'{name.removesuffix(bare)}' instead of '{decoder}'"
    return None


def _some(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
