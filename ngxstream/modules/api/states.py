"""What a client of the API may be doing, for how long, and how the error log names it."""

from typing import Final

from ngxstream.wire import http

HEADER_MS: Final = 10_000  # for the head of a request
BODY_MS: Final = 10_000  # for its body
IDLE_MS: Final = 60_000  # between two requests
ANSWER_MS: Final = 60_000  # for a reply, from the request to its last byte
LOOK_MS: Final = 1_000  # how often an idle client looks whether its worker is leaving
STALL_MS: Final = 10_000  # between two writes
LINGER_MS: Final = 2_000  # for a client to take the reply to a request that was not read whole
MAX_CLIENTS: Final = 256  # of a worker; who comes beyond is told 503
MAX_REFUSED: Final = 256  # who are told so at the same time; who comes beyond is closed at once
SMALL_BODY: Final = 8_192  # bytes of a body that nobody reads
READ: Final = 16_384  # bytes a read
PORTION: Final = 1024  # bytes of them that are parsed in one step

# what a client is doing
IDLE: Final = 0
HEADER: Final = 1
BODY: Final = 2
CHECKING: Final = 3  # its password is being verified
RUNNING: Final = 4  # the operation has not replied yet
SENDING: Final = 5
LINGERING: Final = 6

ACTIONS: Final = {
    IDLE: "waiting for request", HEADER: "reading client request headers",
    BODY: "reading client request body", CHECKING: "verifying password",
    RUNNING: "processing request",
    SENDING: "sending response to client", LINGERING: "closing request",
}
PARTS: Final = {
    http.LINE: "reading client request line", http.HEADERS: "reading client request headers",
    http.BODY: "reading client request body",
}
