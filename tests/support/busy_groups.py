"""Two groups whose servers have done something, for tests of what is shown of it."""

from typing import Any

from ngxstream.modules.upstream import peer_view, view
from ngxstream.stream import endings
from ngxstream.stream.peer_facts import Books
from tests.support.in_process import InProcess

TEXT = """stream {
    upstream zoned { zone z 64k; server 127.0.0.1:1; server 127.0.0.1:2 drain; }
    upstream plain { least_conn; server 127.0.0.1:1; server 127.0.0.1:1 backup; }
    server { listen 127.0.0.1:@a@; proxy_pass zoned; status_zone "a \\"zone\\""; }
    server { listen 127.0.0.1:@b@; proxy_pass plain; status_zone b; }
    server { listen 127.0.0.1:@api@; api; status_zone api; }
}"""


class Busy(InProcess):
    """Groups whose servers are told to have done something."""

    def __init__(self) -> None:
        super().__init__(TEXT)
        for name, n, server in (("zoned", 0, 0), ("zoned", 1, 0), ("plain", 0, 1), ("plain", 1, 1)):
            conf = peer_view.groups(self.conf)[name]
            peer = list(view.peers(conf))[n].peer
            books = self.loop.get(Books)
            book: Any = books.find(self.conf.servers[server], conf, peer, False, False)
            books.wait(book)
            book.connect_ms += [3, 70] if n else [3]
            book.session_ms += [20, 99_999_999]
            book.tell(endings.IDLE.reason)
        self.loop.get(Books).flush()
