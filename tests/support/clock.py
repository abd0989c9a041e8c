"""A source of time that tests set."""


class FakeClock:
    """A source of time that stands still until it is told to go on: `Clock(FakeClock(0.0))`."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        """Args: seconds since 1970."""
        self.seconds = seconds

    def __call__(self) -> float:
        """Return the time it was set to."""
        return self.seconds

    def advance(self, seconds: float) -> None:
        """Go on by so many seconds."""
        self.seconds += seconds
