"""What -T prints: every configuration file that was read (nginx.c main)."""

from collections.abc import Iterable

from ngxstream.conf import reader


def dump(*sources: reader.Source) -> bytes:
    """Return all files, each once, in the order they were opened, byte for byte.

    The source of -g, if any, comes first; of it only what it includes is a file.
    """
    return b"".join(
        b"# configuration file %s:\n%s\n" % (path.encode("utf-8", "surrogateescape"), raw)
        for path, raw in contents(sources).items()
    )


def contents(sources: Iterable[reader.Source]) -> dict[str, bytes]:
    """Return path to bytes: what files.Memory needs to read the same configuration again."""
    found: dict[str, bytes] = {}
    for source in sources:
        for file in source.files:
            found.setdefault(file.path, file.raw)
    return found
