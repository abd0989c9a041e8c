"""The man page."""

import shutil
import subprocess

import pytest

from ngxstream.ctl import completion, main, manual


def test_every_command_and_option_is_in_it() -> None:
    """It is made of the parser."""
    page = manual.page(main.parser())
    for name, (_, one) in completion.subparsers(main.parser()).items():
        assert f".SS {name} ".replace("-", r"\-") in page
        for option in completion.options(one):
            assert option.option_strings[-1].replace("-", r"\-") in page


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")
def test_groff_has_nothing_to_say() -> None:
    """No macro is misspelled."""
    done = subprocess.run(
        ["groff", "-man", "-k", "-Tutf8", "-ww", "-z"], input=manual.page(main.parser()).encode(),
        capture_output=True, check=True,
    )
    assert b"" == done.stderr
