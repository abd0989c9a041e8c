"""OpenSSL itself: the very libssl that Python's ssl module is linked to, called through ctypes.

The standard ssl module makes contexts, wraps sockets, reads and writes. It has no call for session
ticket keys, caches shared by processes, CRLs by file, OCSP staples, verification that goes on to
the end of a handshake, certificates chosen per client, SSL_CONF commands, nor for OpenSSL's own
words about a failure. For these this module calls the library behind `_ssl` itself, and nothing
outside event/libssl*.py knows of a pointer. Answers for the headers that
src/event/ngx_event_openssl.h includes.

1. Nothing is called before it is probed: `load()` finds the library, every function of the table
   below and the pointers inside Python's objects, and compares what both sides say of one context
   and one connection. Where that fails nobody may use TLS, and `Unavailable` has the reason.
2. A pointer inside a Python object is at a place the ssl module does not promise. Before it is
   believed, the memory behind it is read through /proc/self/mem (which cannot crash) and must name
   the method table its owner was made with.
3. Functions are called with the interpreter's lock held (PyDLL): they are short, and a worker has
   one thread.
4. A callback from the library must not raise: what is wrong is said by its return code.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import re
import socket
import ssl
from typing import Any, Final

from ngxstream.core import errors

CTX_OFFSET: Final = object.__basicsize__  # struct PySSLContext { PyObject_HEAD SSL_CTX *ctx; … }
SSL_OFFSET: Final = object.__basicsize__ + 8  # struct PySSLSocket { HEAD PyObject *Socket; SSL *… }

# SSL_get_error
ERROR_WANT_READ: Final = 2
ERROR_WANT_WRITE: Final = 3
ERROR_SYSCALL: Final = 5
ERROR_ZERO_RETURN: Final = 6

ERR_LIB_PEM: Final = 9
ERR_LIB_SSL: Final = 20
PEM_R_NO_START_LINE: Final = 108
ERR_TXT_STRING: Final = 2
_ALERT_REASONS: Final = 1000  # an alert that came has this and its number for a reason
# what the ssl module makes of a failure: "[SSL: NAME] the library's own words (_ssl.c:1006)"
_OWN_WORDS: Final = re.compile(r"\[[^\]]*\] (.*) \(_ssl\.c:\d+\)", re.DOTALL)

_CB_WRITE_ALERT: Final = 0x4008
_ALERT_FATAL: Final = 2
_INFO_CB: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
MAX_TEXT: Final = 1024  # NGX_MAX_CONF_ERRSTR

# what a read or write on a connection may fail with
_CONNECTION_ERRNOS: Final = errors.REMOTE_FAULTS - {errno.ENOTCONN}

_TYPES: Final = {
    "v": None,
    "p": ctypes.c_void_p,
    "s": ctypes.c_char_p,
    "i": ctypes.c_int,
    "u": ctypes.c_uint,
    "l": ctypes.c_long,
    "L": ctypes.c_ulong,
    "U": ctypes.c_uint64,
    "z": ctypes.c_size_t,
}

# result:arguments, by the letters above; names joined by | are one function's names in turn
_FUNCTIONS: Final = """
SSL_CTX_callback_ctrl l:pip
SSL_CTX_clear_options U:pU
SSL_CTX_ctrl l:pilp
SSL_CTX_get_cert_store p:p
SSL_CTX_get_options U:p
SSL_CTX_get_timeout l:p
SSL_CTX_get_verify_depth i:p
SSL_CTX_get_verify_mode i:p
SSL_CTX_remove_session i:pp
SSL_CTX_sess_set_get_cb v:pp
SSL_CTX_sess_set_new_cb v:pp
SSL_CTX_sess_set_remove_cb v:pp
SSL_CTX_set_alpn_select_cb v:ppp
SSL_CTX_set_cert_cb v:ppp
SSL_CTX_set_cipher_list i:ps
SSL_CTX_set_client_CA_list v:pp
SSL_CTX_set_client_hello_cb v:ppp
SSL_CTX_set_options U:pU
SSL_CTX_set_default_read_buffer_len v:pz
SSL_CTX_set_session_id_context i:psu
SSL_CTX_set_session_ticket_cb i:pppp
SSL_CTX_set_timeout l:pl
SSL_CTX_set_verify v:pip
SSL_CTX_set_verify_depth v:pi
SSL_CTX_use_PrivateKey i:pp
SSL_CTX_use_certificate i:pp
SSL_CONF_CTX_finish i:p
SSL_CONF_CTX_free v:p
SSL_CONF_CTX_new p:
SSL_CONF_CTX_set_flags u:pu
SSL_CONF_CTX_set_ssl_ctx v:pp
SSL_CONF_cmd i:pss
SSL_CONF_cmd_value_type i:ps
SSL_CIPHER_find p:pp
SSL_CIPHER_get_name s:p
SSL_SESSION_free v:p
SSL_SESSION_get0_hostname s:p
SSL_SESSION_get_id p:pp
SSL_SESSION_get_protocol_version i:p
SSL_SESSION_get_time l:p
SSL_SESSION_get_timeout l:p
SSL_SESSION_set_time l:pl
SSL_SESSION_set_timeout l:pl
SSL_clear_options U:pU
SSL_client_hello_get0_ext i:pupp
SSL_ctrl l:pilp
SSL_do_handshake i:p
SSL_get0_alpn_selected v:ppp
SSL_get1_peer_certificate|SSL_get_peer_certificate p:p
SSL_get_SSL_CTX p:p
SSL_get_certificate p:p
SSL_get_current_cipher p:p
SSL_get_error i:pi
SSL_get_options U:p
SSL_get_servername s:pi
SSL_get_session p:p
SSL_get_shutdown i:p
SSL_get_sigalgs i:pipppPP
SSL_get_verify_result l:p
SSL_get_version s:p
SSL_has_pending i:p
SSL_select_next_proto i:ppsupu
SSL_session_reused i:p
SSL_set_SSL_CTX p:pp
SSL_set_alpn_protos i:psu
SSL_set_info_callback v:pp
SSL_set_options U:pU
SSL_set_quiet_shutdown v:pi
SSL_set_session_id_context i:psu
SSL_set_shutdown v:pi
SSL_set_verify v:pip
SSL_set_verify_depth v:pi
SSL_shutdown i:p
SSL_use_PrivateKey i:pp
SSL_use_certificate i:pp
SSL_version i:p
TLS_client_method p:
TLS_server_method p:
d2i_SSL_SESSION p:ppl
i2d_SSL_SESSION i:pp
ASN1_TIME_print i:pp
BIO_ctrl l:pilp
BIO_free i:p
BIO_new p:p
BIO_new_file p:ss
BIO_new_mem_buf p:si
BIO_read i:ppi
BIO_s_mem p:
CRYPTO_free v:psi
CRYPTO_malloc p:zsi
ERR_clear_error v:
ERR_error_string_n v:Lpz
ERR_get_error L:
ERR_peek_error L:
ERR_peek_last_error L:
ERR_reason_error_string s:L
EVP_DecryptInit_ex i:ppppp
EVP_EncryptInit_ex i:ppppp
EVP_PKEY_free v:p
EVP_PKEY_get_base_id|EVP_PKEY_base_id i:p
EVP_PKEY_get_bits|EVP_PKEY_bits i:p
EVP_aes_128_cbc p:
EVP_aes_256_cbc p:
EVP_sha256 p:
HMAC_Init_ex i:psipp
OBJ_nid2sn s:i
OCSP_RESPONSE_free v:p
OPENSSL_sk_free v:p
OPENSSL_sk_new_null p:
OPENSSL_sk_push i:pp
PEM_read_bio_PrivateKey p:pppp
PEM_read_bio_X509 p:pppp
PEM_read_bio_X509_AUX p:pppp
PEM_read_bio_X509_CRL p:pppp
X509_CRL_free v:p
X509_NAME_cmp i:pp
X509_NAME_dup p:p
X509_NAME_get_text_by_NID i:pipi
X509_NAME_print_ex i:ppiL
X509_STORE_add_cert i:pp
X509_STORE_add_crl i:pp
X509_STORE_set_flags i:pL
X509_check_host i:pszup
X509_check_issued i:pp
X509_email_free v:p
X509_free v:p
X509_get0_notAfter p:p
X509_get0_notBefore p:p
X509_get0_pubkey p:p
X509_get1_ocsp p:p
X509_get_issuer_name p:p
X509_get_serialNumber p:p
X509_get_signature_nid i:p
X509_get_subject_name p:p
X509_verify_cert_error_string s:l
d2i_OCSP_RESPONSE p:ppl
i2a_ASN1_INTEGER i:pp
i2d_X509 i:pp
i2d_X509_NAME i:pp
"""

# newer or older than some library we serve with: None where it is missing
_OPTIONAL: Final = """
ERR_peek_error_data L:pp
ERR_peek_error_line_data L:pppp
SSL_get0_peer_signature_name i:pp
SSL_get0_signature_name i:pp
SSL_CTX_set0_tmp_dh_pkey i:pp
PEM_read_bio_Parameters p:pp
PEM_read_bio_DHparams p:pppp
DH_free v:p
"""


class Unavailable(errors.NgxError):
    """Python's libssl cannot be reached"""


class SslError(errors.NgxError):
    """A call that failed; the text is nginx's, with the library's own reasons."""


class Library:
    """The functions of the table above as attributes, and the texts of its failures."""

    def __init__(self, path: str | None) -> None:
        """Bind every function. Raises: OSError, AttributeError"""
        self._dll = ctypes.PyDLL(path, use_errno=True)
        for line in _FUNCTIONS.split("\n"):
            if line:
                names, shape = line.split()
                self._bind(names, shape, optional=False)
        for line in _OPTIONAL.split("\n"):
            if line:
                names, shape = line.split()
                self._bind(names, shape, optional=True)
        self._reasons: dict[str, int] = {}
        self._recorded = 0, ""  # SSL*, and why a call of the ssl module on it is about to raise
        self._on_info = _INFO_CB(self._record)
        self._errno_at: Any = getattr(ctypes.PyDLL(None), "__errno_location", None)
        if self._errno_at is not None:
            self._errno_at.restype = ctypes.POINTER(ctypes.c_int)

    def _bind(self, names: str, shape: str, *, optional: bool) -> None:
        aliases = names.split("|")
        function: Any = None
        for name in aliases:
            function = getattr(self._dll, name, None)
            if function is not None:
                break
        if function is None:
            if not optional:
                raise AttributeError(f"{aliases[0]}() is missing")
        else:
            result, _, arguments = shape.partition(":")
            function.restype = _TYPES[result]
            function.argtypes = [_TYPES[letter.lower() if letter == "P" else letter]
                                 for letter in arguments]
        setattr(self, aliases[0], function)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    # -- what the library says of a failure ----------------------------------------------------

    def reasons(self) -> str:
        """Empty the error queue into ` (SSL: error:…)`, or "". Source: ngx_ssl_error"""
        said = bytearray()
        data = ctypes.c_char_p()
        flags = ctypes.c_int()
        buffer = ctypes.create_string_buffer(256)
        while True:
            if self.ERR_peek_error_data is not None:
                code = self.ERR_peek_error_data(ctypes.byref(data), ctypes.byref(flags))
            else:
                code = self.ERR_peek_error_line_data(
                    None, None, ctypes.byref(data), ctypes.byref(flags)
                )
            if not code:
                break
            if len(said) < MAX_TEXT:
                self.ERR_error_string_n(code, buffer, len(buffer))
                said += b" " + buffer.value
                if data.value and flags.value & ERR_TXT_STRING:
                    said += b":" + data.value
            self.ERR_get_error()
        return f" (SSL:{said.decode('utf-8', 'surrogateescape')})" if said else ""

    def error(self, message: str) -> SslError:
        """Make the error of a call that just failed."""
        return SslError(message + self.reasons())

    def record_failures(self, connection: int) -> None:
        """Keep what the library says of failures of this connection for take_recorded().

        The ssl module empties the queue and passes on the last entry alone. Since OpenSSL 3.2 that
        is "record layer failure" for whatever is wrong with a record; the cause is another entry.
        """
        self.SSL_set_info_callback(connection, self._on_info)

    def _record(self, connection: int, where: int, number: int) -> None:
        """Take the queue when it is complete: the peer is told of the failure, by a fatal alert."""
        if where & _CB_WRITE_ALERT == _CB_WRITE_ALERT and number >> 8 == _ALERT_FATAL:
            self._recorded = connection, self.reasons()

    def take_recorded(self, connection: int) -> str:
        """Return, once, the queue as it was when a connection's peer was told of a failure.

        Empty where it was not. The ssl module finds the queue empty and raises what says little.
        """
        (whose, told), self._recorded = self._recorded, (0, "")
        return told if whose == connection else ""

    def reason_of(self, error: ssl.SSLError) -> str:
        """Spell an exception of the ssl module as the library itself would.

        It has emptied the queue by then. Its exception keeps the last entry, the only one where the
        failure is an alert that the peer has sent.
        """
        if not self._reasons:
            for reason in range(1, 1300):
                text = self.ERR_reason_error_string(self.code_of(reason))
                if text:
                    # setdefault: numbers that only alias another come later
                    self._reasons.setdefault(text.decode(), reason)
        found = _OWN_WORDS.fullmatch(str(error.args[1])) if len(error.args) > 1 else None
        words = found[1] if found else (error.reason or "").lower().replace("_", " ")
        number = self._reasons.get(words)
        if number is None:
            return f" (SSL: {words or error})"
        said = f" (SSL: error:{self.code_of(number):08X}:SSL routines::{words}"
        if number > _ALERT_REASONS:
            said += f":SSL alert number {number - _ALERT_REASONS}"
        return f"{said})"

    def last_errno(self) -> int | None:
        """Return the errno of a read or write of the ssl module that has just failed.

        The module takes every failure of the kernel's for an end of the stream and keeps the errno
        to itself; it is still where the C library left it.
        """
        code = 0 if self._errno_at is None else self._errno_at()[0]
        return code if code in _CONNECTION_ERRNOS else None

    def split_code(self, code: int) -> tuple[int, int]:
        """Return the library part and the reason of an error code."""
        if ssl.OPENSSL_VERSION_INFO >= (3,):
            return code >> 23 & 0xFF, code & 0x7FFFFF
        return code >> 24 & 0xFF, code & 0xFFF

    def code_of(self, reason: int) -> int:
        """Return the error code of a reason of the SSL part."""
        if ssl.OPENSSL_VERSION_INFO >= (3,):
            return ERR_LIB_SSL << 23 | reason
        return ERR_LIB_SSL << 24 | reason

    # -- pointers inside Python's objects ------------------------------------------------------

    def context_pointer(self, context: ssl.SSLContext) -> int:
        """Return the SSL_CTX* of a context; it lives as long as the context."""
        return ctypes.c_void_p.from_address(id(context) + CTX_OFFSET).value or 0

    def connection_pointer(self, connection: object) -> int:
        """Return the SSL* of what wrap() returned; it lives as long as that object."""
        return ctypes.c_void_p.from_address(id(connection) + SSL_OFFSET).value or 0


class WrappedSocket(socket.SocketType):
    """A bare socket that a weak reference may point at: the ssl module asks for that."""

    __slots__ = ("__weakref__",)

    @classmethod
    def take(cls, sock: socket.SocketType) -> WrappedSocket:
        """Make one of a non-blocking socket, which loses its descriptor unless it is one."""
        if type(sock) is cls:
            return sock
        kind = sock.type | socket.SOCK_NONBLOCK  # no call to the kernel: it is so already
        return cls(sock.family, kind, sock.proto, fileno=sock.detach())


def wrapper(context: ssl.SSLContext) -> Any:
    """Return what wraps a bare socket: (sock, server_side, server_hostname) -> connection.

    The method behind SSLContext.wrap_socket, which would make a Python object of 40 methods about
    each connection and ask the kernel for the peer's name. Args: sock: A WrappedSocket; of the
    connection: read(size, buffer), write(data), session
    """
    return context._wrap_socket  # type: ignore[attr-defined]  # noqa: SLF001


@functools.cache
def load() -> Library:
    """Return the library behind the ssl module, probed. Raises: Unavailable"""
    path = getattr(ssl._ssl, "__file__", None)  # type: ignore[attr-defined]  # noqa: SLF001
    try:
        library = Library(path)
    except (OSError, AttributeError) as error:
        raise Unavailable(f"libssl of Python's ssl module cannot be used: {error}") from None
    _probe(library)
    return library


def _probe(library: Library) -> None:
    """Compare what Python and the library say of the same objects. Raises: Unavailable"""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pointer = library.context_pointer(context)
    method = library.TLS_server_method()
    if not _names(pointer, method):
        raise Unavailable("contexts of this Python's ssl module have an unknown shape")
    for options in (ssl.OP_ALL, ssl.OP_ALL | ssl.OP_NO_TICKET):
        context.options = options
        if library.SSL_CTX_get_options(pointer) != context.options:
            raise Unavailable("contexts of this Python's ssl module are not this libssl's")
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        bare = WrappedSocket.take(left)
        try:
            connection = wrapper(context)(bare, True, None)
            inner = library.connection_pointer(connection)
            if not _names(inner, method) or library.SSL_get_SSL_CTX(inner) != pointer:
                raise Unavailable("connections of this Python's ssl module have an unknown shape")
        finally:
            bare.close()


def _names(pointer: int, method: int) -> bool:
    """Tell whether the first words behind a pointer name a method table, without a crash.

    A context begins with its method (or its library context, then its method), a connection with
    its version (or its type, its context and the method it began with).
    """
    try:
        with open("/proc/self/mem", "rb", buffering=0) as memory:
            memory.seek(pointer)
            words = memory.read(64)
    except (OSError, ValueError, OverflowError):
        return False
    found = [int.from_bytes(words[at : at + 8], "little") for at in range(0, len(words), 8)]
    return method in found
