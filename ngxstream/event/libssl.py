"""OpenSSL itself: the very libssl that Python's ssl module is linked to, called through ctypes.

The standard ssl module has no call for session ticket keys, caches shared by processes, CRLs by
file, OCSP staples, verification that goes on to the end of a handshake, certificates chosen per
client, SSL_CONF commands, nor for OpenSSL's own words about a failure; and it raises an exception
whenever there is nothing to read. So contexts and connections are the library's own, none of the
ssl module's, and nothing outside event/libssl*.py, event/libcrypto.py and event/tls.py calls a
function on a pointer that it owns. Answers for the headers that src/event/ngx_event_openssl.h
includes.

1. Nothing is called before it is probed: `load()` finds the library, every function of the table
   below, and its version, which must be the one that the ssl module was told. Where that fails
   nobody may use TLS, and `Unavailable` has the reason.
2. What the library makes has one owner, which frees it: a Context its SSL_CTX, a Transport its
   SSL, a PeerSession its SSL_SESSION.
3. Functions are called with the interpreter's lock held (PyDLL): they are short, and a worker has
   one thread.
4. A callback from the library must not raise: what is wrong is said by its return code.
"""

from __future__ import annotations

import ctypes
import functools
import ssl
from typing import Any, Final

from ngxstream.core import errors

# SSL_get_error
ERROR_WANT_READ: Final = 2
ERROR_WANT_WRITE: Final = 3
WANTS: Final = (ERROR_WANT_READ, ERROR_WANT_WRITE)
ERROR_SYSCALL: Final = 5
ERROR_ZERO_RETURN: Final = 6

ERR_LIB_PEM: Final = 9
PEM_R_NO_START_LINE: Final = 108
ERR_TXT_STRING: Final = 2
MAX_TEXT: Final = 1024  # NGX_MAX_CONF_ERRSTR

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
SSL_CTX_free v:p
SSL_CTX_get_cert_store p:p
SSL_CTX_get_options U:p
SSL_CTX_get_timeout l:p
SSL_CTX_get_verify_depth i:p
SSL_CTX_get_verify_mode i:p
SSL_CTX_new p:p
SSL_CTX_remove_session i:pp
SSL_CTX_sess_set_get_cb v:pp
SSL_CTX_sess_set_new_cb v:pp
SSL_CTX_sess_set_remove_cb v:pp
SSL_CTX_set_alpn_select_cb v:ppp
SSL_CTX_set_cert_cb v:ppp
SSL_CTX_set_cipher_list i:ps
SSL_CTX_set_client_CA_list v:pp
SSL_CTX_set_client_hello_cb v:ppp
SSL_CTX_set_default_verify_paths i:p
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
SSL_SESSION_is_resumable i:p
SSL_accept i:p
SSL_clear_options U:pU
SSL_client_hello_get0_ext i:pupp
SSL_connect i:p
SSL_ctrl l:pilp
SSL_free v:p
SSL_get0_alpn_selected v:ppp
SSL_get1_session p:p
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
SSL_is_dtls i:p
SSL_new p:p
SSL_read i:ppi
SSL_select_next_proto i:ppsupu
SSL_session_reused i:p
SSL_set_SSL_CTX p:pp
SSL_set_alpn_protos i:psu
SSL_set_fd i:pi
SSL_set_options U:pU
SSL_set_quiet_shutdown v:pi
SSL_set_session i:pp
SSL_set_shutdown v:pi
SSL_set_verify v:pip
SSL_set_verify_depth v:pi
SSL_shutdown i:p
SSL_use_PrivateKey i:pp
SSL_use_certificate i:pp
SSL_version i:p
SSL_write i:ppi
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
OpenSSL_version_num L:
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
X509_check_ip_asc i:psu
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
        if not self.ERR_peek_error():
            return ""
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

    def split_code(self, code: int) -> tuple[int, int]:
        """Return the library part and the reason of an error code."""
        if ssl.OPENSSL_VERSION_INFO >= (3,):
            return code >> 23 & 0xFF, code & 0x7FFFFF
        return code >> 24 & 0xFF, code & 0xFFF


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
    """Ask the library who it is, and for an object of its own. Raises: Unavailable"""
    if library.OpenSSL_version_num() != ssl.OPENSSL_VERSION_NUMBER:
        raise Unavailable("the libssl found is not the one that Python's ssl module uses")
    pointer = library.SSL_CTX_new(library.TLS_server_method())
    if not pointer:
        raise Unavailable(f"SSL_CTX_new() failed{library.reasons()}")
    library.SSL_CTX_free(pointer)
