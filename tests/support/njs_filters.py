"""What filters of njs can rely on, one behaviour each, beside the same in Python.

A part of the list in tests/support/njs_contracts.py, which says how it is used.
"""

from typing import Final

from tests.support.njs_contract import Contract, Seen

TCP: Final = "x_filter m.f; proxy_half_close on; proxy_pass BACKEND;"
UDP: Final = "x_filter m.f; proxy_timeout 300ms; proxy_pass BACKEND;"
CLASS: Final = "from ngxstream.scripting import Filter\nclass f(Filter):\n"


def _js(upload: str) -> str:
    """Return a module whose filter has this callback for what the client sends."""
    callback = f"function(d, flags) {{ {upload} }}"
    return f"function f(s) {{ s.on('upload', {callback}); }} export default {{f}};"


FILTERS: Final = (
    Contract(
        "the function of a filter", "is called once, when the first data comes",
        "function f(s) { s.warn('called'); s.on('upload', function(d, flags) { "
        "if (d.length) s.warn('saw ' + d); s.send(d, flags); }); } export default {f};",
        CLASS + "    def __init__(self, s):\n        super().__init__(s)\n"
        "        s.log.warning('called')\n"
        "    def from_client(self, d):\n"
        "        self.session.log.warning('saw ' + d.decode())\n        return d\n",
        TCP, Seen(b"abcd", notes=("called", "saw ab", "saw cd")), (b"ab", b"cd"), ends=True,
    ),
    Contract(
        "a server that is connected, before any data", "the function is not called",
        "function f(s) { s.warn('called'); } export default {f};",
        CLASS + "    def __init__(self, s):\n        s.log.warning('called')\n",
        "x_filter m.f; proxy_timeout 300ms; proxy_pass BACKEND;", Seen(b""),
        ours=Seen(b"", notes=("called",)), differs="it is called, once",
        why="a filter may speak first: session.send_to_client()",
    ),
    Contract(
        "data that a callback does not send", "goes nowhere", _js(""),
        CLASS + "    def from_client(self, d):\n        return None\n",
        TCP, Seen(b""), (b"ab",), ends=True,
    ),
    Contract(
        "a datagram that a callback does not send", "is dropped, and the next one is not",
        _js("s.warn('saw ' + d); if (String(d) != 'ab') s.send(d, flags);"),
        CLASS + "    def from_client(self, d):\n"
        "        self.session.log.warning('saw ' + d.decode())\n"
        "        return d if d != b'ab' else None\n",
        UDP, Seen(b"cd", notes=("saw ab", "saw cd")), (b"ab", b"cd"), udp=True,
    ),
    Contract(
        "two pieces sent in one call, TCP", "follow each other",
        _js("if (d.length) { s.send('<'); s.send(d); } else s.send(d, flags);"),
        CLASS + "    def from_client(self, d):\n        return [b'<', d]\n",
        TCP, Seen(b"<ab"), (b"ab",), ends=True,
    ),
    Contract(
        "two pieces sent in one call, UDP", "are two datagrams",
        _js("s.send('<'); s.send(d);"),
        CLASS + "    def from_client(self, d):\n        return [b'<', d]\n",
        UDP, Seen(b"<|ab"), (b"ab",), udp=True,
    ),
    Contract(
        "a direction without a callback", "passes unchanged",
        "function f(s) { s.on('download', function(d, flags) { "
        "s.send(String(d).toUpperCase(), flags); }); } export default {f};",
        CLASS + "    def from_upstream(self, d):\n        return d.upper()\n",
        TCP, Seen(b"AB"), (b"ab",), ends=True,
    ),
    Contract(
        "the end of a direction", "is a call with the flag `last`, and what it sends goes before",
        _js("if (flags.last) s.warn('last'); s.send(flags.last ? d + '>' : d, flags);"),
        CLASS + "    def from_client(self, d):\n        return d\n"
        "    def client_end(self, held):\n        self.session.log.warning('last')\n"
        "        return b'>'\n",
        TCP, Seen(b"ab>", notes=("last",)), (b"ab",), ends=True,
    ),
    Contract(
        "an exception in the function of a filter",
        "the session ends, one line of level error; $status is 200",
        "function f(s) { throw new Error('no'); } export default {f};",
        "def f(s):\n    raise ValueError('no')\n",
        TCP, Seen(b"", "200", (), 1), (b"ab",), ours=Seen(b"", "500", (), 1),
        differs="the same with status 500",
        why="the access log tells it from a session that went well",
    ),
    Contract(
        "an exception in a callback",
        "the session ends, one line of level error; $status is 200",
        _js("throw new Error('no');"),
        CLASS + "    def from_client(self, d):\n        raise ValueError('no')\n",
        TCP, Seen(b"", "200", (), 1), (b"ab",), ours=Seen(b"", "500", (), 1),
        differs="the same with status 500",
        why="the access log tells it from a session that went well",
    ),
    Contract(
        "a verdict in a filter", "done() is an exception, a TypeError", _js("s.done(403);"),
        CLASS + "    def from_client(self, d):\n        self.session.deny()\n",
        TCP, Seen(b"", "200", (), 1), (b"ab",), ours=Seen(b"", "403"),
        differs="deny() and close() end the session once the method returns",
        why="who sees an attack in the data must be able to end it, and say so in the log",
    ),
    Contract(
        "sent to the other side from a callback", "arrives; what came goes nowhere",
        _js("if (d.length) s.sendDownstream('no'); else s.send(d, flags);"),
        CLASS + "    def from_client(self, d):\n        self.session.send_to_client(b'no')\n",
        TCP, Seen(b"no"), (b"ab",), ends=True,
    ),
    Contract(
        "sent from outside of a callback", "arrives in the order of the calls",
        _js("if (String(d) == 'ab') setTimeout(function() { s.sendUpstream('1', {}); "
            "s.sendUpstream('2', {}); s.warn('sent after ab'); }, 10); else s.send(d, flags);"),
        "from ngxstream.scripting import Filter, sleep\nclass f(Filter):\n"
        "    async def from_client(self, d):\n        if d != b'ab':\n            return d\n"
        "        await sleep(0.01)\n        s = self.session\n        s.send_to_upstream(b'1')\n"
        "        s.send_to_upstream(b'2')\n        s.log.warning('sent after ab')\n",
        TCP, Seen(b"12cd", notes=("sent after ab",)), (b"ab", b"cd"), ends=True,
    ),
    Contract(
        "bytes that are no UTF-8", "come out of send() as they were",
        _js("s.send(d, flags);"), CLASS + "    def from_client(self, d):\n        return d\n",
        TCP, Seen(b"\xff"), (b"\xff",), ends=True,
    ),
)
