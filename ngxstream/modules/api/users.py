"""Who may use the API: basic authentication by a file of users and passwords.

1. The file is read with the configuration, by the master: a worker may have no right to, and no
   request waits for a disk. A change of it takes a reload.
2. Who has proved a password has proved it until it was not used for KEEP_MS; who failed has failed
   for as long. What is kept is a keyed hash. Those who guess push nobody else out.
3. A form that takes long is verified by a thread, one at a time. Who comes while MAX_WAITING wait
   is told 503.
4. An unknown user takes as long as the first one of the file.

Source: ngx_http_auth_basic_module.c
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ngxstream.core import escape
from ngxstream.core.log import ERR
from ngxstream.event.offload import Offload
from ngxstream.modules.api import passwords
from ngxstream.modules.api.passwords import Secret
from ngxstream.modules.api.refusals import Refused

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop
    from ngxstream.stream.session import Session

KEEP_MS: Final = 60_000
KEEP: Final = 256  # credentials that fit, and as many that do not
MAX_FILE: Final = 1 << 20
MAX_USERS: Final = 10_000


class UserFile:
    """The users of one file."""

    __slots__ = ("decoy", "path", "secrets")

    def __init__(self, path: str, data: bytes) -> None:
        """Read the users. Raises: ValueError, with words for a message"""
        self.path = path
        try:
            crypt = passwords.Crypt()
        except OSError:
            crypt = None
        self.secrets: dict[str, Secret] = {}
        for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), 1):
            if not line.strip() or line.startswith("#"):
                continue
            name, colon, rest = line.removesuffix("\r").partition(":")
            if not colon or not name:
                raise ValueError(f"no user and password in {path}:{number}")
            try:
                self.secrets.setdefault(name, passwords.read(rest.partition(":")[0], crypt))
            except passwords.FormError as error:
                raise ValueError(f"a password {error} in {path}:{number}") from None
        if len(self.secrets) > MAX_USERS:
            raise ValueError(f"too many users in {path}")
        self.decoy = next(iter(self.secrets.values()), None)


class Verifier:
    """What a worker remembers of credentials: `loop.get(Verifier)`."""

    __slots__ = ("_key", "_known", "loop", "offload")

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.offload = Offload(loop)
        self._key = secrets.token_bytes(32)
        # until when, ms; by whether they fit
        self._known: dict[bool, dict[bytes, int]] = {True: {}, False: {}}

    def check(self, s: Session, file: UserFile, header: str | None,
              done: Callable[[bool], None]) -> bool | None:
        """Verify what a client says it is.

        Args: header: Authorization. Returns: whether it may go on, None when done() tells later
        Raises: Refused while too many wait
        """
        if header is None:
            return False
        credentials = parse(header)
        if credentials is None:
            s.log_error(ERR, "client sent no credentials of basic authentication")
            return False
        name, password = credentials
        mark = hashlib.blake2b(
            b"\0".join((file.path.encode("utf-8", "surrogateescape"), name, password)),
            key=self._key, digest_size=32,
        ).digest()
        for fits, known in self._known.items():
            if known.get(mark, 0) > self.loop.now_ms:
                if fits:
                    self._keep(mark, fits)
                return fits
        user = name.decode("utf-8", "surrogateescape")
        found = file.secrets.get(user)
        secret = found or file.decoy
        if secret is None:
            return False

        def verify() -> bool:
            return passwords.fits(secret, password) and found is not None

        def settle(does_fit: bool) -> None:
            self._keep(mark, does_fit)
            if not does_fit:
                shown = escape.default(name[:64]).decode()
                why = "password mismatch" if found else f'was not found in "{file.path}"'
                s.log_error(ERR, f'user "{shown}": {why}' if found else f'user "{shown}" {why}')

        def settle_later(does_fit: bool | None, error: OSError | None) -> None:
            settle(bool(does_fit))
            done(bool(does_fit))

        if secret.crypt is not None:
            if not self.offload.run(verify, settle_later):
                raise Refused(503, "Unavailable", "too many passwords are being verified",
                              ("Retry-After", "1"))
            return None
        does_fit = verify()
        settle(does_fit)
        return does_fit

    def _keep(self, mark: bytes, does_fit: bool) -> None:
        known = self._known[does_fit]
        known.pop(mark, None)
        while len(known) >= KEEP:
            del known[next(iter(known))]
        known[mark] = self.loop.now_ms + KEEP_MS


def parse(header: str) -> tuple[bytes, bytes] | None:
    """Return user and password of an Authorization header, None for another one."""
    scheme, _, text = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        raw = base64.b64decode(text.strip(" "), validate=True)
    except (binascii.Error, ValueError):
        return None
    name, colon, password = raw.partition(b":")
    return (name, password) if colon and name else None


def challenge() -> Refused:
    """Return the refusal that asks for a password."""
    return Refused(
        401, "Unauthorized", "authorization required",
        ("WWW-Authenticate", 'Basic realm="ngxstream", charset="UTF-8"'),
    )
