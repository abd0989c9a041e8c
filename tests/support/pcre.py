"""PCRE itself, where its library is installed: the calls that nginx makes of it."""

import ctypes
import ctypes.util
from typing import Final, NamedTuple

CASELESS: Final = 0x8
NO_MATCH: Final = -1
_UNSET: Final = ctypes.c_size_t(-1).value

Captures = tuple[bytes | None, ...]


class Refusal(NamedTuple):
    """Why a pattern was not compiled, and where in it."""

    reason: str
    at: int

    def as_nginx_says(self, pattern: bytes) -> str:
        """Word it as ngx_regex_compile() does."""
        rest = pattern[self.at :]
        where = f' at "{rest.decode("utf-8", "surrogateescape")}"' if rest else ""
        text = pattern.decode("utf-8", "surrogateescape")
        return f'pcre2_compile() failed: {self.reason} in "{text}"{where}'


class LimitError(Exception):
    """PCRE gave up a match."""


class Pcre:
    """The few calls of libpcre2-8 that nginx makes."""

    def __init__(self, path: str) -> None:
        self.lib = lib = ctypes.CDLL(path)
        lib.pcre2_compile_8.restype = ctypes.c_void_p
        lib.pcre2_compile_8.argtypes = [
            ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint32, ctypes.POINTER(ctypes.c_int),
            ctypes.POINTER(ctypes.c_size_t), ctypes.c_void_p,
        ]  # fmt: skip
        lib.pcre2_match_data_create_from_pattern_8.restype = ctypes.c_void_p
        lib.pcre2_match_data_create_from_pattern_8.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        lib.pcre2_match_8.argtypes = [
            ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_uint32,
            ctypes.c_void_p, ctypes.c_void_p,
        ]  # fmt: skip
        lib.pcre2_get_ovector_pointer_8.restype = ctypes.POINTER(ctypes.c_size_t)
        lib.pcre2_get_ovector_pointer_8.argtypes = [ctypes.c_void_p]
        lib.pcre2_get_ovector_count_8.argtypes = [ctypes.c_void_p]
        lib.pcre2_match_data_free_8.argtypes = [ctypes.c_void_p]
        lib.pcre2_code_free_8.argtypes = [ctypes.c_void_p]
        lib.pcre2_get_error_message_8.argtypes = [
            ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t,
        ]  # fmt: skip
        lib.pcre2_config_8.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
        said = ctypes.create_string_buffer(64)
        lib.pcre2_config_8(11, said)
        self.version = tuple(int(part) for part in said.value.split()[0].split(b"."))

    def search(
        self, pattern: bytes, subjects: list[bytes], *, caseless: bool
    ) -> "list[Captures | None] | Refusal":
        """Search all subjects, or say why the pattern is refused.

        Raises:
            LimitError: If PCRE gives up.
        """
        error, at = ctypes.c_int(), ctypes.c_size_t()
        options = CASELESS if caseless else 0
        code = self.lib.pcre2_compile_8(pattern, len(pattern), options, error, at, None)
        if not code:
            said = ctypes.create_string_buffer(256)
            self.lib.pcre2_get_error_message_8(error.value, said, 256)
            return Refusal(said.value.decode(), at.value)
        data = self.lib.pcre2_match_data_create_from_pattern_8(code, None)
        try:
            return [self._match(code, data, subject) for subject in subjects]
        finally:
            self.lib.pcre2_match_data_free_8(data)
            self.lib.pcre2_code_free_8(code)

    def _match(self, code: int, data: int, subject: bytes) -> Captures | None:
        result = self.lib.pcre2_match_8(code, subject, len(subject), 0, 0, data, None)
        if result < 0:
            if result != NO_MATCH:
                raise LimitError(result)
            return None
        offsets = self.lib.pcre2_get_ovector_pointer_8(data)
        groups = self.lib.pcre2_get_ovector_count_8(data)
        return tuple(
            None if offsets[2 * n] == _UNSET else subject[offsets[2 * n] : offsets[2 * n + 1]]
            for n in range(groups)
        )


def load() -> Pcre | None:
    """Load PCRE; None if it is not installed."""
    path = ctypes.util.find_library("pcre2-8")
    return None if path is None else Pcre(path)
