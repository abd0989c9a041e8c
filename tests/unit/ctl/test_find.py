"""Finding the API in the configuration of the program."""

from pathlib import Path

import pytest

from ngxstream.ctl import find
from ngxstream.ctl.client import UNREACHABLE, CtlError


def conf(folder: Path, stream: str) -> list[str]:
    """Write a configuration; return the options that name it."""
    path = folder / "n.conf"
    path.write_text(f"events {{}}\nstream {{ {stream} }}\n")
    return ["-c", str(path), "-p", str(folder)]


@pytest.mark.parametrize(
    ("stream", "url", "write"),
    [
        ("server { listen 127.0.0.1:81; api; }", "http://127.0.0.1:81/api", False),
        ("server { listen 82; api write=on; allow 127.0.0.1; deny all; }",
         "http://127.0.0.1:82/api", True),
        ("server { listen [::]:83; api; }", "http://[::1]:83/api", False),
        ("server { listen [::1]:83; api prefix=/s; }", "http://[::1]:83/s", False),
        ("server { listen unix:/r/a.sock; api; }", "unix:/r/a.sock:/api", False),
        # write=on before read-only, a Unix socket before an address
        ("server { listen unix:/r/a.sock; api; } server { listen 127.0.0.1:81; api write=on; }",
         "http://127.0.0.1:81/api", True),
        ("server { listen 127.0.0.1:81; api; } server { listen unix:/r/a.sock; api; }",
         "unix:/r/a.sock:/api", False),
        # who wants a PROXY header is not for us
        ("server { listen 127.0.0.1:81 proxy_protocol; api; } server { listen 127.0.0.1:82; api; }",
         "http://127.0.0.1:82/api", False),
    ],
)
def test_the_best_api_is_found(tmp_path: Path, stream: str, url: str, write: bool) -> None:
    """Of those that the configuration has."""
    assert find.Found(url, write) == find.find(conf(tmp_path, stream))


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        ("server { listen 81; return x; }", "add one, for example"),
        ("server { listen 81; nonsense; }", 'unknown directive "nonsense" in '),
    ],
)
def test_what_is_not_found_is_told(tmp_path: Path, stream: str, text: str) -> None:
    """With what to do about it."""
    with pytest.raises(CtlError, match=text) as raised:
        find.find(conf(tmp_path, stream))
    assert UNREACHABLE == raised.value.code


def test_a_configuration_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """By its name and the system's reason."""
    with pytest.raises(CtlError, match=r"none\.conf.*No such file"):
        find.find(["-c", str(tmp_path / "none.conf")])
