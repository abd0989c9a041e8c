"""Walk a block whose statements are not directives: the inside of map, geo and split_clients.

Answers for the `cf->handler` branch of ngx_conf_file.c ngx_conf_parse: every statement goes to one
function of the block's owner, and a block inside the block is `unexpected "{"`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ngxstream.core import errors

if TYPE_CHECKING:
    from ngxstream.conf.builder import Builder
    from ngxstream.conf.reader import Statement


def walk(builder: Builder, st: Statement, take: Callable[[Statement], None], *,
         includes: bool = True) -> None:
    """Hand each statement of a block to `take`, what it includes in place.

    `take` raises ConfError without a place; afterwards messages name the closing line of
    the block. Without `includes` the word is an item like any other.
    Raises: ConfError
    """
    assert st.block is not None
    _walk(builder, st.block, take, includes)
    builder.place = (st.file, st.end_line)


def _walk(builder: Builder, statements: Iterable[Statement],
          take: Callable[[Statement], None], includes: bool) -> None:
    for st in statements:
        if st.error is not None:  # a Fault: the syntax error of this file
            raise st.error
        builder.place = (st.file, st.line)
        if st.block is not None:
            raise errors.ConfError('unexpected "{"')
        if st.includes is None or not includes:
            take(st)
            continue
        for file in st.includes:
            _walk(builder, file.statements, take, includes)
