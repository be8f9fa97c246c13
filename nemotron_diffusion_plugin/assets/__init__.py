"""The checkpoints that come with the package."""

from pathlib import Path

BUNDLED_CHECKPOINT = Path(__file__).parent / "tiny"
