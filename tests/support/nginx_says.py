"""Asks the real nginx what it says of a configuration, byte for byte, without starting it."""

import re
import subprocess
from pathlib import Path

from tests.support import tools

# Warnings may come first, and a message may have newlines of the configuration in it.
MESSAGE = re.compile(
    rb"^nginx: \[(?:emerg|alert|crit|error)\] (.*?)\nnginx: configuration file",
    re.DOTALL | re.MULTILINE,
)


class NginxSays:
    """One nginx.conf in a folder of its own, judged by ``nginx -t`` again and again."""

    def __init__(self, folder: Path) -> None:
        self.nginx = tools.require_nginx()
        self.folder = folder
        self.path = folder / "nginx.conf"
        self.module = tools.nginx_module(self.nginx, "stream")

    def load_stream(self) -> str:
        """Return the line, without a newline, that makes ``stream {}`` known; "" if built in."""
        return f"load_module {self.module}; " if self.module else ""

    def of(self, raw: bytes, globals_: str = "") -> str:
        """Return nginx's first error without its level, "" when the configuration is good."""
        self.path.write_bytes(raw)
        folder = self.folder
        ran = subprocess.run(
            [
                self.nginx,
                "-t",
                "-q",
                "-p",
                f"{folder}/",
                "-c",
                str(self.path),
                "-e",
                str(folder / "error.log"),
                "-g",
                f"pid {folder}/pid; {globals_}",
            ],
            capture_output=True,
            check=False,
            timeout=60,
        )
        if ran.returncode == 0:
            return ""
        found = MESSAGE.search(ran.stderr)
        assert found is not None, ran.stderr
        return found[1].decode("utf-8", "surrogateescape")
