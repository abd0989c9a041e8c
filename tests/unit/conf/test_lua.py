"""Where the code of a Lua block ends."""

import pytest

from ngxstream.conf import lua


@pytest.mark.parametrize(
    "code",
    [
        b"",
        b" return 1 ",
        b"{{}{}}",
        b"'}' .. \"}\"",
        b"'\\'}' \"\\\"}\"",
        b"'\\\\' '\\\n}'",
        b"-- don't {\n",
        b"--[ {\n",
        b"--[[ } ]]",
        b"--[==[ } ]] } ]=] ]==]",
        b"[[ } ]]",
        b"[==[ ]] } ]==]",
        b"a[b[1]] = [=",
        b"'not closed\n",
        b"\"not closed\n",
        b"\xff",
    ],
)
def test_code_ends_at_its_own_brace(code: bytes) -> None:
    """Braces in strings and comments, short or long, are not the block's."""
    assert len(code) == lua.end_of_block(code + b"}\n}", 0)
    assert 7 + len(code) == lua.end_of_block(b"x '{\"[[" + code + b"}", 7)


@pytest.mark.parametrize(
    "code", [b"", b"{}", b"'\\", b"'a\\\\", b"-- }", b"--", b"[[ }", b"--[==[ } ]]", b"[=[ }]] }"]
)
def test_code_may_have_no_end(code: bytes) -> None:
    """A block that is never closed, or only in a string or a comment, has no end."""
    assert -1 == lua.end_of_block(code, 0)
