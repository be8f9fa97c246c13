"""Counting what a CUDA device would be asked to do: kernels and copies, by PyTorch and by the Triton operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from nemotron_diffusion_plugin.serving.operators import Operators

LAUNCHES = {"pick": 2, "pick_tokens": 2, "commit": 1, "accept": 1, "shrink": 1, "expand": 1}
"""Of each operator as a Triton kernel (docs/kernels.md)."""
NO_KERNEL = frozenset(
    {
        *("detach", "view", "_unsafe_view", "slice", "select", "unsqueeze", "squeeze", "expand", "alias"),
        *(
            "transpose",
            "t",
            "permute",
            "as_strided",
            "split",
            "empty",
            "empty_like",
            "new_empty",
            "lift_fresh",
        ),
    }
)
"""Operations of PyTorch that launch nothing: other views of a tensor, and memory."""


class Launches(TorchDispatchMode):
    """Counts launches by the name of the operation while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name: Counter[str] = Counter()

    @property
    def total(self) -> int:
        return self.by_name.total()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name not in NO_KERNEL:
            self.by_name[name] += 1
        return func(*args, **(kwargs or {}))

    def apart(self, function: Callable[..., Any], name: str | None = None) -> Callable[..., Any]:
        """The function with nothing of its inside counted, but `LAUNCHES` of it where it has a name there."""

        def called(*arguments: Any, **keywords: Any) -> Any:
            if name is not None:
                self.by_name[name] += LAUNCHES[name]
            with _disable_current_modes():
                return function(*arguments, **keywords)

        return called

    def watch(self, operators: Operators, forward: Any) -> None:
        """Count the operators as the kernels they are on a GPU, and nothing of the model's forward."""
        for name in LAUNCHES:
            setattr(operators, name, self.apart(getattr(operators, name), name))
        forward.run = self.apart(forward.run)
