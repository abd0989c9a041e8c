"""What a browser may be made to ask for by a page of somebody else, and is refused.

1. DNS rebinding: a page of attacker.example has that name point here and reads what is served. A
   browser is served only under a name that an attacker cannot have: an address, localhost, this
   host's own name, a server_name. Who is no browser is served under any name: Prometheus, the
   exporter and curl run no code of others.
2. Forged requests: what changes something and says where it came from came from a page of this
   server: Origin, or Referer where there is none, is the Host, and Sec-Fetch-Site is not another
   site. Scripts and curl send none of these.

Source: Fetch, section "Origin header"; Fetch Metadata Request Headers
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from ngxstream.core import ip
from ngxstream.stream.api import ApiError

if TYPE_CHECKING:
    from ngxstream.core.hostnames import HostTable
    from ngxstream.wire.http import Head

SAFE: Final = frozenset(("GET", "HEAD", "OPTIONS"))
# every browser sends one of these with each request, and no page can keep it from that
_MARKS: Final = ("accept-language", "origin", "referer", "sec-fetch-site", "sec-fetch-mode")
_BROWSER: Final = "Mozilla/"
_URL: Final = re.compile(r"(https?)://([^/?#@]+)(?:[/?#].*)?", re.IGNORECASE)
_PORTS: Final = {"http": ":80", "https": ":443"}


def check_host(head: Head, names: HostTable[bool], hostname: str) -> None:
    """Refuse a browser that was led here. Raises: ApiError

    Args: names: server_name of the server; hostname: of this host
    """
    if is_own_name(head.host, names, hostname) or not is_browser(head.headers):
        return
    raise ApiError(
        403, "HostNotAllowed",
        "a browser has to use an address, localhost or a server_name of this server",
    )


def is_own_name(host: str, names: HostTable[bool], hostname: str) -> bool:
    """Tell whether a name belongs to this server for sure."""
    host = host.removesuffix(".")
    if not host or host == "localhost" or host.endswith(".localhost"):
        return True
    if host in (hostname, hostname.partition(".")[0]):
        return True
    if ip.parse(host.strip("[]")) is not None:
        return True
    return names.find(host.encode("ascii")) is not None


def is_browser(headers: Mapping[str, str]) -> bool:
    """Tell whether a request may come from a browser."""
    return (
        any(name in headers for name in _MARKS)
        or headers.get("user-agent", "").startswith(_BROWSER)
    )


def check_origin(head: Head) -> None:
    """Refuse a change that a page of another server asks for. Raises: ApiError"""
    if head.method in SAFE:
        return
    headers = head.headers
    site = headers.get("sec-fetch-site", "none")
    page = headers.get("origin", headers.get("referer"))
    if site in ("none", "same-origin") and (page is None or _is_here(page, head.authority)):
        return
    raise ApiError(403, "CrossSiteRequest", "a page of another server may change nothing here")


def _is_here(page: str, authority: str) -> bool:
    """Tell whether the URL of a page has the host and port of the request."""
    url = _URL.fullmatch(page)
    if url is None:
        return False
    port = _PORTS[url[1].lower()]
    return url[2].lower().removesuffix(port) == authority.removesuffix(port)
