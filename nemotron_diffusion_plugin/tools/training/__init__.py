"""Writing checkpoints: with random weights, and the recipe of the bundled tri-mode model and its drafter LoRA."""
