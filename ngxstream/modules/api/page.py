"""What is served besides data: the live page.

`__NGXSTREAM_PREFIX__` in the page becomes the prefix of the server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ngxstream.stream.api import ROOT, Endpoint, Operation, Reply

if TYPE_CHECKING:
    from ngxstream.modules.api.policy import Page
    from ngxstream.stream.api import Request

KEY: Final = "api"  # where the draft keeps what servers with an `api` have in common
HTML: Final = "text/html; charset=utf-8"
_PREFIX: Final = "__NGXSTREAM_PREFIX__"


def _page(request: Request) -> Reply:
    page: Page = request.stream.data[KEY].page
    prefix = request.s.server.api.prefix
    # a prefix has no letter that HTML reads in another way (conf.py)
    return Reply(200, page.text.replace(_PREFIX, prefix), HTML, page.headers)


_PAGE: Final = {"GET": Operation(_page, "The live page.", kind=HTML)}
ENDPOINTS: Final = (
    Endpoint(ROOT, "/", _PAGE),
    Endpoint(ROOT, "/dashboard.html", _PAGE),
)
