"""Errors of the API as replies, in the form of NGINX Plus."""

from __future__ import annotations

import secrets
from typing import Any, Final

from ngxstream.stream.api import ApiError, Reply

HREF: Final = "https://nginx.org/en/docs/http/ngx_http_api_module.html"
_CODES: Final = {  # of errors that have no word of their own
    400: "BadRequest", 408: "RequestTimeout", 413: "RequestEntityTooLarge", 414: "UriTooLong",
    417: "ExpectationFailed", 431: "HeadersTooLarge", 500: "InternalError", 501: "NotImplemented",
    503: "Unavailable", 504: "Timeout", 505: "VersionNotSupported",
}  # fmt: skip


class Refused(ApiError):
    """A request that cannot be met, with header lines of its reply."""

    def __init__(self, status: int, code: str, text: str, *headers: tuple[str, str]) -> None:
        super().__init__(status, code, text)
        self.headers = headers


def refusal(error: ApiError) -> Reply:
    """Return the reply that an error is."""
    headers = error.headers if isinstance(error, Refused) else ()
    return error_reply(error.status, error.code, error.text, headers)


def failure() -> Reply:
    """Return the reply to a request that met a fault of ours."""
    return error_reply(500, "InternalError", "internal error")


def error_reply(status: int, code: str, text: str,
                headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    """Return a reply that tells of an error. Args: code: "" for the usual word"""
    value: dict[str, Any] = {
        "error": {"status": status, "text": text, "code": code or _CODES.get(status, "Error")},
        "request_id": secrets.token_hex(16),
        "href": HREF,
    }
    return Reply(status, value, headers=headers)
