"""Live sessions as the stream block knows them."""

from typing import Final

from ngxstream.modules.sessions import endpoints, metrics, table
from ngxstream.stream.module import StreamModule

MODULE: Final = StreamModule(
    name="sessions", endpoints=endpoints.ENDPOINTS, metrics=metrics.metrics,
    questions=table.QUESTIONS,
)
