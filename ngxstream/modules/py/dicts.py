"""py_shared_dict_zone: pairs that the functions of all workers share.

The zone is kept over a reload while its name, size, type and `evict` stay, and with `state` over
restarts; its file is that of a keyval_zone (stream/keyval_state.py), where numbers are decimal and
bytes are the characters of the same numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ngxstream.conf import directive as d
from ngxstream.conf import zone_size
from ngxstream.core import errors
from ngxstream.modules.py import conf
from ngxstream.scripting import dict_zone, shared_dict
from ngxstream.stream import keyval_state, keyval_zone

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.event.loop import Loop
    from ngxstream.scripting.dict_zone import DictZone
    from ngxstream.stream.core import StreamConf

KINDS: Final = ("string", "number", "bytes")


def _zone(scope: Scope, module: Module, st: Statement) -> None:
    """Read `py_shared_dict_zone zone=name:size [timeout=] [type=] [evict] [state=file]`."""
    name = path = ""
    kind = "string"
    size = timeout_ms = 0
    evicts = False
    for word in st.args:
        what, _, text = word.partition("=")
        if what == "zone":
            name, size = zone_size.named_size(word, text)
        elif what == "timeout":
            timeout_ms = keyval_zone.timeout_of(word, text)
        elif what == "type":
            kind = text
            if kind not in KINDS:
                raise errors.ConfError(f'invalid dict type "{word}"')
        elif word == "evict":
            evicts = True
        elif what == "state" and text:
            path = scope.prefix_path(text)
        else:
            raise errors.ConfError(f'invalid parameter "{word}"')
    if not name:
        raise errors.ConfError(f'"{st.directive}" must have "zone" parameter')
    if evicts and not timeout_ms:
        raise errors.ConfError("evict requires timeout=")
    known: dict[str, DictZone] = scope.builder.data["stream"].data.setdefault(conf.DICTS, {})
    if name in known:
        raise errors.ConfError(f'duplicate zone "{name}"')
    if path:
        keyval_state.claim(scope, path)
    zone = known[name] = dict_zone.DictZone(name, kind, evicts)
    zone.declare("string", timeout_ms, path, (st.file, st.line))
    request = scope.builder.data["zones"].request(name, size, f"py_dict {kind} {evicts}")
    request.init = zone.attach


def zones(stream: StreamConf) -> Iterable[DictZone]:
    """Return the zones of a configuration."""
    known: dict[str, DictZone] = stream.data.get(conf.DICTS, {})
    return known.values()


def start_worker(stream: StreamConf, loop: Loop) -> None:
    """Have functions find these dicts, and write the files of those that have one."""
    shared_dict.DICTS.set(shared_dict.of_zones(zones(stream)))
    keyval_state.start_worker(zones(stream), loop)


def stop_worker(stream: StreamConf, loop: Loop) -> None:
    """Write what is to be kept."""
    keyval_state.stop_worker(zones(stream))


def suspend(stream: StreamConf) -> None:
    """Leave the files alone for a while."""
    keyval_state.suspend(zones(stream))


def resume(stream: StreamConf) -> None:
    """Go on."""
    keyval_state.resume(zones(stream))


DIRECTIVES: Final = (
    d.Directive("py_shared_dict_zone", d.STREAM, d.ONE_MORE, _zone,
                "A shared memory zone of pairs that the functions of all workers share.",
                extension=True),
)
