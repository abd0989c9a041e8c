"""Names are written as labels and spelled again; for those of responses see test_dns.py."""

import pytest

from ngxstream.wire import dns_names


def test_the_longest_name_is_written() -> None:
    """255 bytes on the wire are still a name."""
    assert 255 == len(dns_names.to_wire(".".join(["a" * 63] * 3 + ["a" * 61])))


def test_a_label_of_the_size_of_a_dot_has_a_text() -> None:
    """46 bytes are an ordinary label, though its length byte is that of a dot."""
    assert "a" * 46 + ".b" == dns_names.from_wire(b"\x2e" + b"a" * 46 + b"\x01b\0")


@pytest.mark.parametrize(("size", "is_refused"), [(253, False), (254, True)])
def test_a_name_of_253_characters_is_asked_for_and_one_of_254_is_not(
    size: int, is_refused: bool
) -> None:
    """On the wire they are 255 and 256; a final dot does not count."""
    name = ("a" * 49 + ".") * 5
    name = (name + "b" * (size - len(name))).removesuffix(".")
    assert size == len(name)
    if is_refused:
        with pytest.raises(dns_names.DnsError, match="invalid domain name"):
            dns_names.to_wire(name)
        return
    assert (255, 255) == (len(dns_names.to_wire(name)), len(dns_names.to_wire(name + ".")))
    assert name == dns_names.from_wire(dns_names.to_wire(name))


@pytest.mark.parametrize(("size", "is_refused"), [(63, False), (64, True)])
def test_a_label_of_63_bytes_is_asked_for_and_one_of_64_is_not(
    size: int, is_refused: bool
) -> None:
    """The two top bits of a length are for pointers."""
    name = "a" * size + ".b"
    if is_refused:
        with pytest.raises(dns_names.DnsError, match="invalid domain name"):
            dns_names.to_wire(name)
    else:
        assert bytes((size,)) + b"a" * size + b"\1b\0" == dns_names.to_wire(name)


def test_a_name_is_read_where_it_stands() -> None:
    """In lower case, with what a pointer leads to, and with the offset behind it."""
    names = dns_names.Names(b"\3Www\2ex\0" + b"\1A\xc0\4")
    assert [(b"\3www\2ex\0", 8), (b"\1a\2ex\0", 12)] == [names.read(0), names.read(8)]


def test_what_is_no_name_is_refused() -> None:
    """A pointer to itself, a length of two bits, and a name without an end."""
    for data in (b"\xc0\0", b"\x41", b"\3ww"):
        with pytest.raises(dns_names.DnsError):
            dns_names.Names(data).read(0)
