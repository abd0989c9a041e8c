"""A configuration without a stream block, read and judged by the program's own modules."""

from ngxstream.conf import builder, directive, reader
from ngxstream.process import directives, elsewhere, events


class Judged:
    """A text that was read and judged."""

    def __init__(self, text: str) -> None:
        """Judge it. Raises: ConfError"""
        self.warnings: list[str] = []
        self.builder = builder.Builder(
            directives.MODULES, prefix="/p/", conf_prefix="/p/conf/", elsewhere=elsewhere.NAMES,
            warn=lambda level, message: self.warnings.append(f"[{level}] {message}"),
        )
        self.scope = builder.Scope(self.builder, directive.MAIN)
        # blocks are not for -g, and here is no file
        reading = reader.read("/n.conf", conf_prefix="/", files=OneFile(text))
        self.builder.build(reading.main.statements, self.scope)

    def main(self) -> directives.MainConf:
        """Return the main conf."""
        return directives.main_conf(self.scope)

    def events(self, listenings: int = 0) -> events.EventsConf:
        """Return the events conf."""
        return events.events_conf(self.builder, listenings)


class OneFile:
    """A file system with one file."""

    def __init__(self, text: str) -> None:
        """Hold the text."""
        self.text = text

    def read(self, path: str) -> bytes:
        """Return it, whatever the path."""
        return self.text.encode()

    def names(self, directory: str) -> list[str]:
        """List nothing."""
        return []

    def exists(self, path: str) -> bool:
        """Everything is there."""
        return True
