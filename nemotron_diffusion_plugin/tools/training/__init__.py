"""The recipe that trains the bundled tiny tri-mode model and its drafter LoRA."""
