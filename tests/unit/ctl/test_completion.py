"""Completion scripts, tried in the shells."""

import shutil
import subprocess

import pytest

from ngxstream.ctl import completion, main


def completed(line: list[str]) -> list[str]:
    """Return what bash offers for the last word of a line."""
    script = completion.script("bash", main.parser())
    words = " ".join(f"'{word}'" for word in line)
    ask = f"COMP_WORDS=({words}); COMP_CWORD={len(line) - 1}; _ngxstreamctl; "
    ask += 'echo "${COMPREPLY[@]}"'
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True
    )
    assert "" == done.stderr
    return done.stdout.split()


def test_bash_offers_commands_and_their_words() -> None:
    """Commands first, also behind options that have a value; then what the command takes."""
    assert ["drain", "drain-node"] == completed(["ngxstreamctl", "dr"])
    assert ["sessions"] == completed(["ngxstreamctl", "--url", "http://a", "sess"])
    assert ["--max-age"] == completed(["ngxstreamctl", "sessions", "--max"])
    assert ["list"] == completed(["ngxstreamctl", "keyval", "li"])
    assert ["--json"] == completed(["ngxstreamctl", "--js"])


def test_every_command_is_in_both_scripts() -> None:
    """They are made of the parser: nothing is missing."""
    parser = main.parser()
    for shell in ("bash", "zsh"):
        script = completion.script(shell, parser)
        assert [] == [n for n in completion.subparsers(parser) if f"{n})" not in script]


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
def test_zsh_reads_its_script() -> None:
    """Its syntax is right."""
    script = completion.script("zsh", main.parser())
    subprocess.run(["zsh", "-n"], input=script, text=True, check=True)
