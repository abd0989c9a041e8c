"""Names of nginx's other modules: misplaced here, not unknown."""

import re
import subprocess
from pathlib import Path

import pytest

from ngxstream.core import errors
from ngxstream.process import elsewhere
from tests.support import tools
from tests.support.judged import Judged


@pytest.mark.parametrize(
    "name", ["keepalive", "server_tokens", "ip_hash", "fastcgi_pass", "auth_http", "protocol",
             "http2", "ssl_reject_handshake", "stub_status"],
)
def test_http_and_mail_names_are_not_allowed_here(name: str) -> None:
    """They are known to nginx, outside of their blocks they are misplaced."""
    with pytest.raises(errors.ConfError) as caught:
        Judged(f"{name} x;")
    assert f'"{name}" directive is not allowed here in /n.conf:1' == str(caught.value)


@pytest.mark.parametrize(
    "name", ["api", "keyval_zone", "zone_sync", "js_import", "rtmp", "lua_code_cache", "state",
             "health_check", "preread_by_lua_block", "ssl", "status", "check"],
)
def test_plus_and_third_party_names_are_unknown(name: str) -> None:
    """The message is that of nginx's open-source build."""
    with pytest.raises(errors.ConfError) as caught:
        Judged(f"{name} x;")
    assert f'unknown directive "{name}" in /n.conf:1' == str(caught.value)


# Known since versions that the distribution's nginx may not have reached.
NEWER = re.compile(
    "http2$|http3|quic|early_hints|keepalive_min_timeout|_inherit$|max_headers|sticky|least_time|"
    "trailers$|_cache$|_compression$|ech_file$"
)
MAIL = re.compile("auth_http|imap|pop3|smtp|protocol|starttls|xclient|proxy|timeout|max_errors|"
                  "http$|mail$|ssl_conf_command")


def test_names_of_http_are_what_nginx_calls_misplaced(tmp_path: Path) -> None:
    """A sample of the list, asked of the distribution's nginx."""
    names = [name for name in sorted(elsewhere.NAMES)
             if not NEWER.search(name) and not MAIL.match(name)]
    for name in names[::10]:
        (tmp_path / "n.conf").write_text(f"{name} x;")
        said = subprocess.run(
            [tools.require_nginx(), "-p", str(tmp_path), "-e", "stderr", "-c", "n.conf", "-t"],
            capture_output=True, text=True, check=False, timeout=60,
        ).stderr
        assert f'"{name}" directive is not allowed here' in said
