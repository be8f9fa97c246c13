"""Reading and writing checkpoints of the published format (model description, 1)."""
