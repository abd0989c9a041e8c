"""The one directive of the language itself, `include`, for every block (ngx_conf_file.c
ngx_conf_include).

The files were opened when the text was read; here their statements are applied in the place of the
include.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ngxstream.conf import directive as d
from ngxstream.conf.module import Module

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.reader import Statement


def _include(scope: Scope, module: Module, st: Statement) -> None:
    for file in st.includes or ():
        scope.builder.walk(file.statements, scope)


MODULE: Final = Module("conf", (
    d.Directive("include", d.ANYWHERE, d.TAKE1, _include,
                "Files read in its place: one by name, or all that match a pattern, in order; "
                "relative to the directory of the main file."),
))
