"""The API's endpoint about certificates: which are served where, and until when they are valid.

They are looked at when the configuration is read, as the library has loaded them. What is chosen
for each client by variables is not known then: it is shown by the words of the directive, and
nothing is said of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import clock as clocks
from ngxstream.event import libssl_facts, libssl_pem
from ngxstream.process.status import shown
from ngxstream.stream import api, core_facts, tls_conf, values
from ngxstream.stream import schema as s
from ngxstream.stream.module import StreamModule
from ngxstream.wire import x509

if TYPE_CHECKING:
    from ngxstream.event.libssl import Library
    from ngxstream.event.libssl_context import Context
    from ngxstream.event.loop import Loop
    from ngxstream.stream.core import ServerConf, StreamConf, StreamDraft

NAME: Final = "certificates"  # where the draft keeps them, by file
DATA: Final = "data:"
_DAY_S: Final = 86_400


class Certificate:
    """One certificate as it is served.

    `file` is as the directive says, after the folder it is in; `end_s` is when it ends to be valid,
    in seconds since 1970, None if that is not known.
    """

    __slots__ = ("end_s", "file", "names", "servers", "subject")

    def __init__(self, file: str) -> None:
        self.file = file
        self.subject = ""
        self.names: list[str] = []
        self.end_s: int | None = None
        self.servers: list[ServerConf] = []

    def read(self, lib: Library, pointer: int) -> None:
        """Take what one says that the library has loaded."""
        self.subject = shown(libssl_facts.subject_of(lib, pointer))
        end_s = libssl_facts.end_of(lib, pointer)
        if end_s is not None and clocks.is_time(end_s * 1000):
            self.end_s = end_s
        try:
            self.names = [shown(name) for name in x509.names(libssl_pem.der_of(lib, pointer))]
        except x509.DerError:
            self.names = []

    def days_left(self, now_s: float) -> int | None:
        """Return for how many whole days it is valid still; less than 0 where it is not."""
        return None if self.end_s is None else int((self.end_s - now_s) // _DAY_S)


def _finish(draft: StreamDraft) -> None:
    """See which there are, where something shows it."""
    if not draft.is_shown:
        return
    found: dict[str, Certificate] = {}
    for server in draft.servers:
        if server.is_ssl and server.ssl.context is not None:
            _add(found, server, draft.builder.conf_prefix)
    draft.data[NAME] = found


def _add(found: dict[str, Certificate], server: ServerConf, prefix: str) -> None:
    context: Context = server.ssl.context
    for n, name in enumerate(server.ssl.certificates or ()):
        is_chosen = values.has_variables(name)
        path = name if is_chosen else tls_conf.full_name(prefix, name)
        known = found.get(path)
        if known is None:
            known = found[path] = Certificate(DATA if path.startswith(DATA) else path)
            if n < len(context.leaves):  # it has none where any of them is chosen
                known.read(context.lib, context.leaves[n].pointers[0])
        known.servers.append(server)


def _of(stream: StreamConf) -> list[Certificate]:
    found: dict[str, Certificate] = stream.data.get(NAME, {})
    return list(found.values())


def _get(request: api.Request) -> api.Reply:
    now_s = request.s.log.clock.now()
    found = (_shown(one, now_s) for one in _of(request.stream))
    return api.Reply(value={"certificates": api.Items(found)})


def _shown(one: Certificate, now_s: float) -> dict[str, Any]:
    return {
        "file": shown(one.file),
        "subject": one.subject,
        "names": one.names,
        "not_after": None if one.end_s is None else clocks.rfc3339(one.end_s * 1000),
        "days_left": one.days_left(now_s),
        "servers": list(dict.fromkeys(shown(core_facts.name_of(server)) for server in one.servers)),
    }


def metrics(loop: Loop, stream: StreamConf) -> Iterable[api.Family]:
    """Return what Prometheus is told of certificates."""
    ends: dict[str, int] = {}
    for one in _of(stream):
        if one.end_s is not None:  # several that stand in the configuration itself have one name
            ends[one.file] = min(one.end_s, ends.get(one.file, one.end_s))
    now_s = loop.log.clock.now()
    yield api.Family("ngxstream_certificate_not_after_timestamp_seconds", api.GAUGE,
                     "When a certificate that is served ends to be valid.",
                     [(api.labels(file=shown(file)), end_s) for file, end_s in ends.items()])
    yield api.Family("ngxstream_certificate_left_seconds", api.GAUGE,
                     "For how long it is valid still; less than 0 where it is not.",
                     [(api.labels(file=shown(file)), int(end_s - now_s))
                      for file, end_s in ends.items()])


_CERTIFICATE: Final = s.obj(
    file=s.described(s.TEXT, "as the directive says; `data:` for one that stands there itself"),
    subject=s.TEXT, names=s.described(s.array(s.TEXT), "DNS names, addresses and others"),
    not_after=s.described(s.nullable(s.TIME), "null where it is chosen for each client"),
    days_left=s.nullable(s.INT), servers=s.described(s.array(s.TEXT), "by their zones"),
)
ENDPOINTS: Final = (
    api.Endpoint(api.OWN, "/certificates", {
        "GET": api.Operation(
            _get, "The certificates that are served, as they were when the configuration was read.",
            s.obj(certificates=s.array(_CERTIFICATE)),
        ),
    }),
)
MODULE: Final = StreamModule(NAME, endpoints=ENDPOINTS, metrics=metrics, finish=_finish)
