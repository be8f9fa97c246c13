"""Let torchvision import next to a CPU build of torch, in every process of SGLang on a CPU.

SGLang imports torchvision for every model. The published wheel is linked against CUDA, so its operators do not
load next to a CPU build of torch, and torchvision then fails where it describes its operators `nms` and `qnms`.
Declaring them first is enough: a text model never calls them.
"""

import gc
import sys
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any


class _DeclareOperators:
    """Finds nothing; declares the operators when torchvision is about to be imported."""

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name == "torchvision" and cls in sys.meta_path:
            sys.meta_path.remove(cls)
            import torch

            if torch.version.cuda is None:
                signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                torch.library.define("torchvision::nms", signature)
                torch.library.define("torchvision::qnms", signature)
        return None


def _run_the_next_sitecustomize() -> None:
    here = Path(__file__).resolve().parent
    elsewhere = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    spec = PathFinder.find_spec("sitecustomize", elsewhere)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(module_from_spec(spec))


gc.set_threshold(50_000, 20, 20)  # a fifth less time for the imports of each of SGLang's three processes
sys.meta_path.insert(0, _DeclareOperators)
_run_the_next_sitecustomize()
