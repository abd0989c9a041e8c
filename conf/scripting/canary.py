"""A canary whose share of the clients is kept in a dict of all workers."""

import re
import zlib

from ngxstream.scripting import Session, shared, timeout

settings = shared("canary")  # "percent": of the clients


def version(s: Session) -> str:
    """Return the upstream of a client: `py_set`."""
    place = zlib.crc32(str(s.client.ip).encode()) % 100
    return "new" if place < settings.get("percent", 0) else "stable"


async def page(s: Session) -> None:
    """Show the share, or set it: `py_content`."""
    async with timeout(5):
        request = (await s.readuntil(b"\r\n\r\n", 4096)).decode("latin-1")
    if found := re.match(r"POST /(\d{1,3}) HTTP/1\.[01]\r\n", request):
        settings["percent"] = min(100, int(found[1]))
        s.log.notice(f"canary: {settings['percent']} %")
    elif not request.startswith("GET / "):
        s.send_to_client(b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        return
    body = f"{settings.get('percent', 0)} % of the clients get the new version\n".encode()
    head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    s.send_to_client(head.encode() + body)
