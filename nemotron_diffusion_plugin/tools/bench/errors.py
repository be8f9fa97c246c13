"""What can go wrong once a run has begun."""

from nemotron_diffusion_plugin.tools.errors import Failure


class BenchError(Failure):
    """The run cannot go on, though nothing was wrong with its options; what is finished is kept.

    `log_tail` holds the last lines of the server's log, where there is one.
    """

    def __init__(self, message: str, log_tail: str = "") -> None:
        super().__init__(message)
        self.log_tail = log_tail
