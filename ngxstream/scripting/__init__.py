"""What a user's Python functions are given and may use: the whole public interface.

    from ngxstream.scripting import Session

    def office_hours(s: Session) -> None:
        if s.client.ip in BLOCKED:
            s.deny()

Everything that a `py_*` directive passes to a function, and everything that a function may import,
is listed in `__all__`; docs/scripting.md teaches it. Nothing else of ngxstream is promised.
"""

from ngxstream.event.opening import CertificateError
from ngxstream.scripting import process
from ngxstream.scripting.addresses import Address
from ngxstream.scripting.errors import ResolveError, ScriptError, SessionEndedError
from ngxstream.scripting.fetching import FetchError, Headers, Response, fetch
from ngxstream.scripting.filters import HOLD, Filter, Hold
from ngxstream.scripting.net import connect, connect_udp, connect_unix, resolve
from ngxstream.scripting.peers import Peer
from ngxstream.scripting.phases import MORE
from ngxstream.scripting.session import Session, SessionLog, Variables
from ngxstream.scripting.shared_dict import SharedDict, SharedMemoryError, shared
from ngxstream.scripting.streams import (
    DatagramSocket,
    IncompleteReadError,
    LimitOverrunError,
    Stream,
)
from ngxstream.scripting.tasks import CancelledError, sleep
from ngxstream.scripting.tls import TLS
from ngxstream.scripting.waiting import gather, timeout

__all__ = (
    "HOLD",
    "MORE",
    "TLS",
    "Address",
    "CancelledError",
    "CertificateError",
    "DatagramSocket",
    "FetchError",
    "Filter",
    "Headers",
    "Hold",
    "IncompleteReadError",
    "LimitOverrunError",
    "Peer",
    "ResolveError",
    "Response",
    "ScriptError",
    "Session",
    "SessionEndedError",
    "SessionLog",
    "SharedDict",
    "SharedMemoryError",
    "Stream",
    "Variables",
    "connect",
    "connect_udp",
    "connect_unix",
    "fetch",
    "gather",
    "process",
    "resolve",
    "shared",
    "sleep",
    "timeout",
)
