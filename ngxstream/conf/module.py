"""The Module record: one feature's directives and the conf they make (ngx_module_t).

A module is data. The builder (conf/builder.py) asks it for its directives and, once a block is
read whole, for a frozen conf made of what the blocks said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ngxstream.conf.directive import Directive
from ngxstream.core.facts import Fact

if TYPE_CHECKING:
    from ngxstream.conf.builder import Builder

Given = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Module:
    """One feature: a name, its directives, and the class of its conf.

    `conf` is a frozen dataclass whose field defaults are nginx's merge defaults, or None
    for a module that keeps no conf; `merge(outer, inner)` makes one of what the outer block and
    the inner block gave (None: the nearest wins, field by field). Keys of `given` that begin with
    an underscore are scratch of the setters and never reach the conf.
    """

    name: str
    directives: tuple[Directive, ...] = ()
    conf: type | None = None
    merge: Callable[[Given, Given], object] | None = None
    # called once before anything is read: may prepare builder.data[name]
    prepare: Callable[[Builder], None] | None = None
    facts: tuple[Fact, ...] = ()

    def make_conf(self, outer: Given, inner: Given) -> Any:
        """Merge what an outer and an inner block gave into a frozen conf."""
        if self.merge is not None:
            return self.merge(outer, inner)
        assert self.conf is not None
        merged = {**outer, **inner}
        return self.conf(**{k: v for k, v in merged.items() if not k.startswith("_")})
