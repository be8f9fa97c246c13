"""The error of this package."""


class CheckpointError(ValueError):
    """A checkpoint folder is incomplete, damaged or not of the published format."""
