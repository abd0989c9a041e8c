"""The `name:size` that directives of shared memory zones take, as limit_conn_zone has it."""

from __future__ import annotations

from ngxstream.conf import units
from ngxstream.core import errors, shm


def named_size(word: str, text: str) -> tuple[str, int]:
    """Return name and bytes of `zone=name:size`. An empty size is an error, an empty name is not.

    Args: word: the whole argument, for messages; text: what is behind the `=`. Raises: ConfError
    Source: ngx_stream_limit_conn_zone
    """
    name, _, size_text = text.partition(":")
    try:
        size = units.parse_size(size_text)
    except ValueError:
        raise errors.ConfError(f'invalid zone size "{word}"') from None
    if size < shm.LEAST:
        raise errors.ConfError(f'zone "{word}" is too small')
    return name, size
