"""Certificates for the tests, made with openssl when they are first wanted; no key is in the tree.

``Authority`` is a certificate authority in a folder; it issues certificates for servers and
clients and keeps a list of those it has revoked.
"""

import base64
import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support import tools

DAYS = "30"


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate (with its chain) and its key, as files."""

    cert: Path
    key: Path


def openssl(*args: str, stdin: bytes = b"") -> bytes:
    """Run openssl to its end; return what it printed. A failure is the test's."""
    ran = subprocess.run(
        [tools.require("openssl"), *args], input=stdin, capture_output=True, check=False
    )
    assert ran.returncode == 0, ran.stderr.decode(errors="replace")
    return ran.stdout


def pin(pair: Pair) -> str:
    """Return the hash of a certificate's key, in base64: --ignore-certificate-errors-spki-list."""
    public = openssl("x509", "-in", str(pair.cert), "-pubkey", "-noout")
    der = openssl("pkey", "-pubin", "-outform", "der", stdin=public)
    return base64.b64encode(hashlib.sha256(der).digest()).decode()


def make_key(path: Path, kind: str = "ec", password: str = "") -> Path:
    """Make a private key: ``ec`` (P-256) or ``rsa`` (2048 bits), encrypted with a password."""
    options = (
        ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
        if kind == "ec"
        else ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]
    )
    cipher = ["-aes256", "-pass", f"pass:{password}"] if password else []
    openssl("genpkey", *options, *cipher, "-out", str(path))
    return path


class Authority:
    """A certificate authority with a folder of its own."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        """Make its key and its own certificate."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.key = make_key(folder / "ca.key")
        self.cert = folder / "ca.pem"
        openssl(
            "req", "-x509", "-new", "-key", str(self.key), "-subj", f"/CN={name}",
            "-days", DAYS, "-out", str(self.cert),
        )  # fmt: skip
        (folder / "index.txt").touch()
        (folder / "serial").write_text("1000\n")
        (folder / "crlnumber").write_text("01\n")
        (folder / "openssl.cnf").write_text(
            "[ca]\ndefault_ca=d\n[d]\n"
            f"dir={folder}\ndatabase={folder}/index.txt\nserial={folder}/serial\n"
            f"crlnumber={folder}/crlnumber\nnew_certs_dir={folder}\ncertificate={self.cert}\n"
            f"private_key={self.key}\ndefault_md=sha256\ndefault_crl_days=30\n"
            f"default_days={DAYS}\npolicy=p\nunique_subject=no\n"
            "[p]\ncommonName=supplied\norganizationName=optional\n"
        )

    def issue(
        self,
        name: str,
        *,
        kind: str = "ec",
        names: tuple[str, ...] = (),
        subject: str = "",
        password: str = "",
        is_authority: bool = False,
        more: str = "",
        days: str = "",
        file: str = "",
    ) -> Pair:
        """Issue a certificate for a name and further DNS names.

        Args: subject defaults to /CN=name; password encrypts the key; more are lines for the
        extensions; file is what the files are called by (default: the name)
        """
        stem = self.folder / (file or name)
        key = make_key(stem.with_suffix(stem.suffix + ".key"), kind, password)
        request = stem.with_suffix(stem.suffix + ".csr")
        cert = stem.with_suffix(stem.suffix + ".crt")
        passin = ["-passin", f"pass:{password}"] if password else []
        openssl(
            "req", "-new", "-key", str(key), *passin, "-subj", subject or f"/CN={name}",
            "-out", str(request),
        )  # fmt: skip
        alternatives = ",".join(f"DNS:{one}" for one in (name, *names))
        extensions = stem.with_suffix(stem.suffix + ".ext")
        extensions.write_text(
            f"basicConstraints=CA:{'TRUE' if is_authority else 'FALSE'}\n"
            + ("" if is_authority else f"subjectAltName={alternatives}\n")
            + more
        )
        openssl(
            "ca", "-batch", "-notext", "-config", str(self.folder / "openssl.cnf"),
            "-extfile", str(extensions), "-in", str(request), "-out", str(cert),
            *(["-days", days] if days else []),
        )  # fmt: skip
        return Pair(cert, key)

    def revoke(self, pair: Pair) -> None:
        """Put a certificate on the list."""
        openssl("ca", "-config", str(self.folder / "openssl.cnf"), "-revoke", str(pair.cert))

    def crl(self) -> Path:
        """Write the list of the revoked and return its file."""
        path = self.folder / "ca.crl"
        openssl("ca", "-config", str(self.folder / "openssl.cnf"), "-gencrl", "-out", str(path))
        return path
