"""The command line, read: one Options says how the program was called and what for
(nginx.c ngx_get_options, ngx_process_options).

Options may be grouped and values glued, as in nginx: `-tq`, `-p/dir`. This module imports next to
nothing, so that -v and -h answer at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Final

import ngxstream
from ngxstream.process.places import CONF_PATH, ERROR_LOG_PATH, PREFIX

STDERR: Final = "stderr"
SIGNALS: Final = ("stop", "quit", "reopen", "reload")
FORMAT: Final = "--format=json"  # of ours: the only option with a long name
OURS: Final = "ngxstream"
NGINX: Final = "nginx"

_WANTS: Final = {
    "p": "directory name", "e": "file name", "c": "file name", "g": "parameter", "s": "parameter",
}


class OptionError(Exception):
    """An invalid command line; its text is nginx's."""


class Options:
    """How the program was called.

    Paths are what the configuration is read with: `prefix` and `conf_prefix` end in a slash (or
    are empty), `conf_file` has the prefix before it, `error_log` is "" for standard error.
    """

    __slots__ = (
        "program",         # str: "nginx" when called by that name, else "ngxstream"
        "argv",            # list[str]: as called
        "show_version",    # bool: -v, -V, -h
        "show_help",       # bool: -h, -?
        "show_configure",  # bool: -V
        "test",            # bool: -t, -T
        "dump",            # bool: -T
        "quiet",           # bool: -q
        "network",         # bool: -N
        "signal",          # str: of -s, "" for none
        "directives",      # str: of -g
        "format",          # str: of --format, "" for text
        "ignored",         # list[str]: of every -g before the last
        "prefix",          # str
        "conf_prefix",     # str
        "conf_file",       # str
        "error_log",       # str
    )

    def __init__(self, argv: Sequence[str]) -> None:
        """Args: argv: sys.argv. Raises: OptionError"""
        self.argv = list(argv)
        self.program = program_name(argv[0] if argv else "")
        self.show_version = False
        self.show_help = False
        self.show_configure = False
        self.test = False
        self.dump = False
        self.quiet = False
        self.network = False
        self.signal = ""
        self.directives = ""
        self.format = ""
        self.ignored: list[str] = []
        self.prefix = PREFIX
        self.conf_prefix = ""
        self.conf_file = CONF_PATH
        self.error_log = ERROR_LOG_PATH
        words = iter(argv[1:])
        for word in words:
            if not word.startswith("-"):
                raise OptionError(f'invalid option: "{word}"')
            if word == FORMAT and self.program == OURS:
                self.format = "json"
                continue
            if word.startswith("--") and word != "--":
                others = "there are no long options"
                if self.program == OURS:
                    others = f"the only long option is {FORMAT}"
                raise OptionError(
                    'invalid option: "-"\n'
                    f'{self.program}: "{word}": {others}, see {self.program} -h'
                )
            self._word(word[1:], words)
        if self.format and (not self.test or self.dump):
            raise OptionError(f'"{FORMAT}" goes with "-t" alone')
        self._resolve()

    def _word(self, letters: str, words: Iterator[str]) -> None:
        """Read one word of options. Args: words: what follows it"""
        for at, letter in enumerate(letters):
            if letter in _WANTS:
                value = letters[at + 1:] or next(words, None)
                if value is None:
                    raise OptionError(f'option "-{letter}" requires {_WANTS[letter]}')
                self._value(letter, value)
                return
            self._letter(letter)

    def _letter(self, letter: str) -> None:
        if letter in "?h":
            self.show_version = self.show_help = True
        elif letter == "v":
            self.show_version = True
        elif letter == "V":
            self.show_version = self.show_configure = True
        elif letter == "t":
            self.test = True
        elif letter == "T":
            self.test = self.dump = True
        elif letter == "q":
            self.quiet = True
        elif letter == "N":
            self.network = True
        else:
            raise OptionError(f'invalid option: "{letter}"')

    def _value(self, letter: str, value: str) -> None:
        if letter == "p":
            self.prefix = value if not value or value.endswith("/") else f"{value}/"
        elif letter == "e":
            self.error_log = "" if value == STDERR else value
        elif letter == "c":
            self.conf_file = value
        elif letter == "g":
            if self.directives:
                self.ignored.append(self.directives)
            self.directives = value
        elif value not in SIGNALS:
            raise OptionError(f'invalid option: "-s {value}"')
        else:
            self.signal = value

    def _resolve(self) -> None:
        """Put the prefix before relative paths. Source: nginx.c ngx_process_options"""
        self.conf_file = os.path.join(self.prefix, self.conf_file)
        self.conf_prefix = self.conf_file[:self.conf_file.rfind("/") + 1]
        if self.error_log:
            self.error_log = os.path.join(self.prefix, self.error_log)

    @property
    def version(self) -> str:
        """Return `nginx/1.31.5`, or our own name and version."""
        number = ngxstream.NGINX_VERSION if self.program == NGINX else ngxstream.VERSION
        return f"{self.program}/{number}"

    @property
    def command(self) -> list[str]:
        """Return the words that run this program again with the same options."""
        if os.path.basename(self.argv[0]) == "__main__.py":
            return [sys.executable, "-m", OURS, *self.argv[1:]]
        return list(self.argv)


def program_name(argv0: str) -> str:
    """Return the name we speak under: nginx when called through a link of that name."""
    return NGINX if os.path.basename(argv0) == NGINX else OURS
