"""The file of the live page, and what a browser may do with it.

The file is read with the configuration; its Content-Security-Policy names its script and its style
by their hashes, so that nothing else runs or is obeyed.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Final

FILE: Final = "dashboard.html"
_SCRIPT: Final = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_STYLE: Final = re.compile(r"<style>(.*?)</style>", re.DOTALL)


class Page:
    """The live page. Args: headers: of its replies"""

    __slots__ = ("headers", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        policy = (
            f"default-src 'none'; script-src {_hashes(_SCRIPT, text)}; "
            f"style-src {_hashes(_STYLE, text)}; img-src data:; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
            "require-trusted-types-for 'script'; trusted-types 'none'"
        )
        self.headers = (
            ("Content-Security-Policy", policy),
            ("X-Frame-Options", "DENY"),
            ("Referrer-Policy", "same-origin"),
        )


def _hashes(element: re.Pattern[str], text: str) -> str:
    """Return the sources of a policy that allow what stands in some elements, and nothing else."""
    found = [hashlib.sha256(inner.encode()).digest() for inner in element.findall(text)]
    return " ".join(f"'sha256-{base64.b64encode(one).decode()}'" for one in found) or "'none'"


def read() -> Page:
    """Read the page of the package."""
    return Page(Path(__file__).with_name(FILE).read_text("utf-8"))
