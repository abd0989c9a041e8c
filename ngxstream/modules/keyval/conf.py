"""keyval, keyval_zone: variables whose values are looked up in pairs that the API changes.

1. The pairs are in a zone that all workers share. It is kept over a reload while its name, size and
   type stay, and with `state` over restarts.
2. A variable is looked up once in a session, as that of a map. It is not found where there is no
   pair for its key.

Source: ngx_stream_keyval_module of NGINX Plus as documented.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ngxstream.conf import directive as d
from ngxstream.conf import zone_size
from ngxstream.conf.directive import STREAM, Directive
from ngxstream.core import errors, keyval_keys, log, shm
from ngxstream.modules.keyval import endpoints
from ngxstream.stream import (
    keyval_sharing,
    keyval_state,
    keyval_zone,
    stores,
    values,
    variables,
)
from ngxstream.stream.module import StreamModule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.event.loop import Loop
    from ngxstream.stream.core import StreamConf, StreamDraft
    from ngxstream.stream.session import Session
    from ngxstream.stream.stores import StoreConf
    from ngxstream.stream.values import ComplexValue

NAME: Final = keyval_zone.NAME


def _zone(draft: StreamDraft, name: str) -> keyval_zone.KeyvalZone:
    """Return a zone by name, known from either directive."""
    known: dict[str, keyval_zone.KeyvalZone] = draft.data.setdefault(NAME, {})
    zone = known.get(name)
    if zone is None:
        zone = known[name] = keyval_zone.KeyvalZone(name)
    return zone


def _keyval_zone(scope: Scope, module: Module, st: Statement) -> None:
    """Read `keyval_zone zone=name:size [state=file] [store=URL] [timeout=time] [type=…]`."""
    name = kind = path = ""
    store: StoreConf | None = None
    size = timeout_ms = 0
    for word in st.args:
        what, _, text = word.partition("=")
        if what == "zone":
            name, size = zone_size.named_size(word, text)
        elif what == "state" and text:
            path = scope.prefix_path(text)
        elif what == "store" and text:
            store = stores.store_of(scope, word, text)
        elif what == "timeout":
            timeout_ms = keyval_zone.timeout_of(word, text)
        elif what == "type":
            kind = text
            if kind not in keyval_keys.KINDS:
                raise errors.ConfError(f'invalid type "{word}"')
        elif word == "sync":
            raise errors.ConfError(
                '"sync" parameter of "keyval_zone" is not supported: '
                'hosts share pairs by a store, see "store="'
            )
        else:
            raise errors.ConfError(f'invalid parameter "{word}"')
    if not name:
        raise errors.ConfError(f'"{st.directive}" must have "zone" parameter')
    draft: StreamDraft = scope.builder.data["stream"]
    zone = _zone(draft, name)
    if zone.is_declared:
        raise errors.ConfError(f'keyval_zone "{name}" is already declared')
    if path:
        keyval_state.claim(scope, path)
    zone.declare(kind or "string", timeout_ms, path, (st.file, st.line))
    zone.shared_by = store
    tag = f"{NAME} {zone.kind}" if store is None else f"{NAME} {zone.kind} of a store"
    scope.builder.data["zones"].request(name, size, tag).init = zone.attach


def _keyval(scope: Scope, module: Module, st: Statement) -> None:
    """Read `keyval key $variable zone=name`."""
    text, variable, word = st.args
    draft: StreamDraft = scope.builder.data["stream"]
    table = draft.variables
    key = values.compile_value(text, table)
    name = word.removeprefix("zone=")
    if name == word or not name:
        raise errors.ConfError(f'invalid parameter "{word}"')
    zone = _zone(draft, name)
    if zone.place is None:
        zone.place = (st.file, st.line)
    table.add(variables.name_in(variable), _getter(key, zone), doc="What a keyval found.")


def _getter(key: ComplexValue, zone: keyval_zone.KeyvalZone) -> Callable[[Session], bytes | None]:
    def get(s: Session) -> bytes | None:
        try:
            return zone.store.find(key.get(s), s.loop.now_ms)
        except shm.DAMAGE as error:
            s.log_error(log.ALERT, f'keyval_zone "{zone.name}" is damaged: {error}')
            return None

    return get


def _init(draft: StreamDraft) -> None:
    """Refuse a zone that only a keyval names. Source: ngx_init_cycle"""
    for zone in draft.data.get(NAME, {}).values():
        if not zone.is_declared:
            file, line = zone.place
            raise errors.ConfError(f'unknown keyval_zone "{zone.name}"', file, line)


def _suspend(stream: StreamConf) -> None:
    keyval_state.suspend(stream.data.get(NAME, {}).values())


def _resume(stream: StreamConf) -> None:
    keyval_state.resume(stream.data.get(NAME, {}).values())


def _start_worker(stream: StreamConf, loop: Loop) -> None:
    zones: Iterable[keyval_zone.KeyvalZone] = stream.data.get(NAME, {}).values()
    keyval_state.start_worker(zones, loop)
    for zone in zones:
        if zone.shared_by is not None:
            zone.sharing = keyval_sharing.Sharing(loop, zone, zone.shared_by, zone.number)


def _retire_worker(stream: StreamConf, loop: Loop) -> None:
    """Leave what is shared to the workers of the next configuration."""
    for zone in stream.data.get(NAME, {}).values():
        if zone.sharing is not None:
            zone.sharing.stop()


def _stop_worker(stream: StreamConf, loop: Loop) -> None:
    _retire_worker(stream, loop)
    keyval_state.stop_worker(stream.data.get(NAME, {}).values())


MODULE = StreamModule(
    name=NAME,
    directives=(
        Directive("keyval_zone", STREAM, d.ONE_MORE, _keyval_zone,
                  "A shared memory zone of pairs that the API changes.", extension=True),
        Directive("keyval", STREAM, d.TAKE3, _keyval,
                  "A variable whose value is looked up in a keyval_zone.", extension=True),
    ),
    init=_init,
    start_worker=_start_worker,
    retire_worker=_retire_worker,
    stop_worker=_stop_worker,
    suspend=_suspend,
    resume=_resume,
    endpoints=endpoints.ENDPOINTS,
)
