"""SIGINT and SIGTERM as one exception, raised once.

Below `__main__`, which installs it and ends with the signal's exit code. Standard library only.
"""

import signal
from types import FrameType
from typing import NoReturn


class InterruptedJobError(BaseException):
    """SIGINT or SIGTERM came. Like KeyboardInterrupt no Exception, so that nothing on the way takes it for a failure.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        """Keep the signal's number."""
        super().__init__(number)
        self.number = number


class Interruption:
    """Turns SIGINT and SIGTERM into one `InterruptedJobError`; remembers it, should something swallow it."""

    def __init__(self) -> None:
        """Nothing came yet."""
        self.number = 0

    def install(self) -> None:
        """Handle both signals from now on."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._raise)

    def _raise(self, number: int, _frame: FrameType | None) -> NoReturn:
        self.number = number
        for other in (signal.SIGINT, signal.SIGTERM):
            signal.signal(other, signal.SIG_IGN)  # one is enough: what follows is tidying up
        raise InterruptedJobError(number)
