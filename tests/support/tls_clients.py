"""TLS clients and servers that are not ours: openssl's s_client and s_server as processes."""

import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import tools
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE, wait_until


@dataclass(frozen=True, slots=True)
class Talk:
    """What one s_client saw: the exit code, what the server sent, what openssl said of it."""

    code: int
    data: bytes
    said: str

    def fact(self, pattern: str) -> str:
        """Return the first group of a pattern in what openssl said; "" where it is not."""
        found = re.search(pattern, self.said)
        return found[1].strip() if found else ""

    @property
    def protocol(self) -> str:
        """Version of the protocol, as the line `New, TLSv1.3, Cipher is …` has it."""
        return self.fact(r"(?:New|Reused), (TLSv[\d.]+), Cipher")

    @property
    def cipher(self) -> str:
        """Cipher, from the same line."""
        return self.fact(r"(?:New|Reused), TLSv[\d.]+, Cipher is (\S+)")

    @property
    def is_reused(self) -> bool:
        """Whether a session was resumed."""
        return "Reused, TLS" in self.said

    @property
    def subject(self) -> str:
        """Subject of the server's certificate, as openssl writes names since 3.2: `CN=a.test`."""
        return self.fact(r"subject=(.*)").replace(" = ", "=")


BEGIN, END = "<data>", "</data>"  # what the server sends stands between these, in openssl's report


def s_client(
    port: int,
    *options: str,
    send: bytes = b"",
    name: str = "a.test",
    commands: bool = False,
) -> Talk:
    """Connect, send, read to the end of the stream.

    Args: the server ends the connection; options are more of s_client's; name is sent by SNI
    unless empty; with commands a line like `R` is one to openssl, not for the server
    """
    words = [tools.require("openssl"), "s_client", "-connect", f"127.0.0.1:{port}"]
    words += ["-servername", name] if name else ["-noservername"]
    words += [] if commands else ["-ign_eof"]
    ran = subprocess.run(
        [*words, *options],
        input=send,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE,
        check=False,
    )
    data = ran.stdout.partition(BEGIN.encode())[2].partition(END.encode())
    return Talk(ran.returncode, data[0] if data[1] else b"", ran.stdout.decode("utf-8", "replace"))


@contextmanager
def s_server(folder: Path, *options: str) -> Iterator[int]:
    """Run an s_server; give its port. What it hears it writes to folder/heard."""
    port = free_port()
    words = [tools.require("openssl"), "s_server", "-accept", f"127.0.0.1:{port}"]
    with open(folder / "heard", "wb") as heard:
        process = subprocess.Popen(
            [*words, *options],
            stdin=subprocess.PIPE,
            stdout=heard,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until(
                lambda: b"ACCEPT" in (folder / "heard").read_bytes() or process.poll() is not None,
                PATIENCE,
                "s_server listens",
            )
            assert process.poll() is None, (folder / "heard").read_text()
            yield port
        finally:
            process.kill()
            process.communicate()


@contextmanager
def bridge(port: int) -> Iterator[int]:
    """Open a plain door for one client, whose bytes go on under TLS; give its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    door = socket.create_server(("127.0.0.1", 0))
    door.settimeout(PATIENCE)

    def serve() -> None:
        client, _ = door.accept()
        plain = socket.create_connection(("127.0.0.1", port), PATIENCE)
        with client, context.wrap_socket(plain) as inside:
            _pump(client, inside)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield door.getsockname()[1]
        thread.join(PATIENCE)
    finally:
        door.close()


def _pump(client: socket.socket, inside: ssl.SSLSocket) -> None:
    client.settimeout(0.02)
    inside.settimeout(0.02)
    ends = [(client, inside), (inside, client)]
    while True:
        for source, sink in ends:
            try:
                data = source.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                return
            if not data:
                return
            sink.sendall(data)
