"""glob(3) over disk and memory, and reading files."""

import ctypes
import errno
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ngxstream.conf import files

LIBC = ctypes.CDLL(None)
FNM_PERIOD = 4


def tree(*paths: str) -> files.Memory:
    """Return a set of empty files."""
    return files.Memory(dict.fromkeys(paths, b""))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("/c/*", ["/c/B", "/c/a", "/c/d", "/c/x.conf"]),
        ("/c/?", ["/c/B", "/c/a", "/c/d"]),
        ("/c/[a-b]", ["/c/a"]),
        ("/c/[!a]", ["/c/B", "/c/d"]),
        ("/c/[^a]", ["/c/B", "/c/d"]),
        ("/c/.*", ["/c/.h"]),
        ("/*/d/*.conf", ["/c/d/y.conf"]),
        ("/c/*/y.conf", ["/c/d/y.conf"]),
        ("/c/\\a*", ["/c/a"]),
        ("/c/none/*", []),
        ("/c/[", []),
    ],
)
def test_patterns_match_as_glob_does(pattern: str, expected: list[str]) -> None:
    """Stars, question marks and brackets match within one name; dots are matched by dots."""
    memory = tree("/c/a", "/c/B", "/c/.h", "/c/x.conf", "/c/d/y.conf", "/c/d/.z.conf")
    assert expected == files.glob(memory, pattern)


PATTERNS = st.lists(
    st.sampled_from([*"*?[]!^-ab.\\é", "[a-z]", "[!", "[[:digit:]]", "[]"]), max_size=6
).map("".join)


@given(PATTERNS.filter(bool), st.text("ab-]!^.[\\1é", min_size=1, max_size=4))
@example("[]", "[]")
@example("[a-]", "-")
@example("[z-a]", "m")
def test_a_name_matches_as_in_the_c_library(pattern: str, name: str) -> None:
    """The pattern of one name agrees with fnmatch(3)."""
    if not name.isascii() or not pattern.isascii():
        return  # the C library compares bytes or characters, as its locale will have it
    theirs = LIBC.fnmatch(pattern.encode(), name.encode(), FNM_PERIOD) == 0
    assert theirs == (files.translate(pattern).fullmatch(name) is not None)


def test_disk_finds_what_is_there(tmp_path: Path) -> None:
    """The file system is searched by the same rules; an unreadable folder holds nothing."""
    for name in ("b.conf", "a.conf", ".c.conf"):
        (tmp_path / name).write_bytes(b"x")
    found = files.glob(files.Disk(), f"{tmp_path}/*.conf")
    assert [f"{tmp_path}/a.conf", f"{tmp_path}/b.conf"] == found
    assert [] == files.glob(files.Disk(), f"{tmp_path}/a.conf/*")
    assert b"x" == files.Disk().read(f"{tmp_path}/a.conf")


def test_names_of_any_bytes_are_found(tmp_path: Path) -> None:
    """A file whose name is no UTF-8 is found and read."""
    with open(os.fsencode(tmp_path) + b"/\xff.conf", "wb") as file:
        file.write(b"y")
    found = files.glob(files.Disk(), f"{tmp_path}/*.conf")
    assert [f"{tmp_path}/\udcff.conf"] == found
    assert b"y" == files.Disk().read(found[0])


def test_a_folder_opens_but_does_not_read(tmp_path: Path) -> None:
    """A folder is told apart from a file that is missing."""
    with pytest.raises(files.ReadFileError) as raised:
        files.Disk().read(str(tmp_path))
    assert errno.EISDIR == raised.value.errno
    with pytest.raises(FileNotFoundError):
        files.Disk().read(f"{tmp_path}/none")
