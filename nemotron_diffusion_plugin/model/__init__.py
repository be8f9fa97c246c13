"""Reading and writing checkpoints of the published format (docs/model.md, 1)."""
