"""Routes DNS queries by name, and answers those of a block list itself."""

from ngxstream.scripting import Session

BLOCKED = ("ads.example", "tracker.example")
INTERNAL = "corp.example"
HEADER = 12  # bytes


def question(query: bytes) -> tuple[str, int]:
    """Return the name that is asked for, and where the question ends."""
    labels = []
    at = HEADER
    while length := query[at]:
        if length > 63:
            raise ValueError("a question is not compressed")
        labels.append(query[at + 1 : at + 1 + length])
        at += 1 + length
    if len(query) < at + 5:
        raise ValueError("no type and class")
    return b".".join(labels).decode("ascii", "replace").lower(), at + 5


def is_within(name: str, domain: str) -> bool:
    """Tell whether a name is a domain's or below it."""
    return name == domain or name.endswith("." + domain)


def route(s: Session) -> None:
    """Choose the servers, or answer: `py_preread`."""
    query = s.preread
    try:
        name, end = question(query)
    except (IndexError, ValueError):
        s.close("no DNS query")
        return
    if any(is_within(name, domain) for domain in BLOCKED):
        # the question again, as a response (QR, RD, RA) with NXDOMAIN and nothing else
        s.send_to_client(query[:2] + b"\x81\x83\x00\x01" + bytes(6) + query[HEADER:end])
        s.close(f"blocked: {name}")
        return
    s.variables["servers"] = "internal" if is_within(name, INTERNAL) else "public"
