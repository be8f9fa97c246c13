"""A plugin of vLLM with a transfer engine that reads the weights of each call from a file, for a machine without a GPU.

vLLM's own engines need one. This one loads as they do: layer by layer, with a start, some calls and a finish.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file

NAME = "file"


def variables(folder: Path, python_path: str) -> dict[str, str]:
    """Return the variables of a server that loads this plugin."""
    info = folder / "file_transfer-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: file-transfer\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[vllm.general_plugins]\nfile_transfer = {__name__}:register\n")
    return {"PYTHONPATH": os.pathsep.join(part for part in (str(folder), python_path) if part)}


def register() -> None:
    """The entry point."""
    from vllm.distributed.weight_transfer.base import (
        WeightTransferEngine,
        WeightTransferInitInfo,
        WeightTransferUpdateInfo,
    )
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

    @dataclass
    class FileUpdateInfo(WeightTransferUpdateInfo):
        path: str

    class FileTransferEngine(WeightTransferEngine[WeightTransferInitInfo, FileUpdateInfo]):
        init_info_cls = WeightTransferInitInfo
        update_info_cls = FileUpdateInfo

        def init_transfer_engine(self, init_info: WeightTransferInitInfo) -> None:
            pass

        def start_weight_update(self) -> None:
            initialize_layerwise_reload(self.model)

        def update_weights(self, update_info: dict[str, str]) -> None:
            self.receive_weights(self.parse_update_info(update_info))

        def receive_weights(self, update_info: FileUpdateInfo) -> None:
            self.model.load_weights(list(load_file(update_info.path).items()))

        def finish_weight_update(self) -> None:
            finalize_layerwise_reload(self.model, self.model_config)

        def shutdown(self) -> None:
            pass

    if NAME not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(NAME, FileTransferEngine)
