"""The Cursor reads what is there and never past its end."""

import pytest

from ngxstream.wire import reader


def test_integers_are_read_in_network_order() -> None:
    """u8 and u16 take 1 and 2 bytes, most significant first."""
    cursor = reader.Cursor(bytes(range(1, 4)))
    assert (0x01, 0x0203) == (cursor.u8(), cursor.u16())


def test_take_returns_a_view_of_the_callers_buffer() -> None:
    """take() copies nothing: a later change of the buffer shows in the slice."""
    data = bytearray(b"abcd")
    part = reader.Cursor(data).take(2)
    data[0] = ord("x")
    assert b"xb" == bytes(part)


@pytest.mark.parametrize("read", ["u8", "u16"])
def test_a_read_past_the_end_is_short_and_moves_nothing(read: str) -> None:
    """A read that does not fit raises Short and leaves the position alone."""
    cursor = reader.Cursor(b"", 0)
    with pytest.raises(reader.Short):
        getattr(cursor, read)()
    assert 0 == cursor.position


def test_a_restricted_cursor_cannot_see_past_its_part() -> None:
    """restrict_to() gives the part its own end; the outer cursor goes on after it."""
    cursor = reader.Cursor(memoryview(b"abcdef"), 1)
    part = cursor.restrict_to(3)
    assert b"bcd" == bytes(part.take(3))
    with pytest.raises(reader.Short):
        part.u8()
    assert b"ef" == bytes(cursor.take(cursor.remaining()))


def test_a_cursor_outside_its_buffer_is_refused() -> None:
    """A Cursor cannot be made to begin or end outside the buffer."""
    with pytest.raises(reader.Short):
        reader.Cursor(b"abc", 2, 4)


def test_need_more_is_one_value_with_a_name() -> None:
    """NEED_MORE is compared by identity and prints as itself."""
    assert reader.NEED_MORE is reader.NeedMore.NEED_MORE
    assert "NEED_MORE" == repr(reader.NEED_MORE)
