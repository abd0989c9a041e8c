"""The GeoIP databases of the system, and small ones made here, in the legacy format."""

from pathlib import Path

FILE = Path("/usr/share/GeoIP/GeoIP.dat")
FILE_V6 = Path("/usr/share/GeoIP/GeoIPv6.dat")

CALIFORNIA = b"".join(
    n.to_bytes(3, "little") for n in (int((37.386 + 180) * 10000), int((-122.0838 + 180) * 10000))
) + (807650).to_bytes(3, "little")


def database(edition: int, size: int, answers: dict[str, bytes], info: bytes = b"") -> bytes:
    """Return the bytes of a database.

    Args: edition as in core/geoip_db.py, size bytes to a record of the tree; answers maps the
    first bits of an address, as 0 and 1, to the bytes of what is known there; info is a comment
    """
    nodes: list[list[int | str]] = [["", ""]]
    for bits in answers:
        node = 0
        for bit in map(int, bits[:-1]):
            child = nodes[node][bit]
            if not isinstance(child, int):
                nodes.append(["", ""])
                child = nodes[node][bit] = len(nodes) - 1
            node = child
        nodes[node][int(bits[-1])] = bits
    count = len(nodes)
    data = b"\0"  # what the answer "nothing" would point at
    places: dict[str, int] = {"": count}
    for bits, record in answers.items():
        places[bits] = count + len(data)
        data += record
    tree = b"".join(
        (child if isinstance(child, int) else places[child]).to_bytes(size, "little")
        for node in nodes
        for child in node
    )
    return tree + data + info + b"\xff\xff\xff" + bytes((edition,)) + count.to_bytes(3, "little")
