"""The api module as the stream block knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ngxstream.core import codes
from ngxstream.modules.api import conf, node, openapi, page, serving
from ngxstream.stream.content import ContentKind
from ngxstream.stream.explaining import Answer
from ngxstream.stream.module import StreamModule

if TYPE_CHECKING:
    from ngxstream.stream.explaining import Explanation
    from ngxstream.stream.session import Session


def _explain(s: Session, explanation: Explanation) -> Answer:
    return Answer(codes.OK, "the API answers")


MODULE: Final = StreamModule(
    name="api",
    directives=conf.DIRECTIVES,
    conf=conf.ApiConf,
    check=conf.check,
    finish=node.finish,
    hand_on=node.hand_on,
    take_up=node.take_up,
    contents=(ContentKind("API client", serving.Client, stays="TCP alone has the API"),),
    endpoints=(*page.ENDPOINTS, *node.ENDPOINTS, *openapi.ENDPOINTS),
    explains=((serving.handle, _explain),),
)
