"""What handlers of njs can rely on, one behaviour each, beside the same in Python.

tests/differential/test_njs.py has nginx with Debian's njs and ngxstream do each of them;
tests/docs.py prints the table as docs/scripting-njs.md. In `lines`, `x_` is `js_` or `py_`. What
filters do is in tests/support/njs_filters.py.
"""

from typing import Final

from tests.support.njs_contract import Contract, Seen
from tests.support.njs_filters import FILTERS

ACCESS: Final = (
    Contract(
        "a function of the access phase", "is called once, before the client has sent anything",
        "function f(s) { s.warn('called'); s.allow(); } export default {f};",
        "def f(s):\n    s.log.warning('called')\n    s.allow()\n",
        "x_access m.f; return in;", Seen(b"in", notes=("called",)), (b"",),
    ),
    Contract(
        "`allow` and `deny` in the same server",
        "the function is asked first; what it allows is not asked any more",
        "function f(s) { s.warn('first'); s.allow(); } export default {f};",
        "def f(s):\n    s.log.warning('first')\n    s.allow()\n",
        "x_access m.f; deny all; return in;", Seen(b"in", notes=("first",)),
    ),
    Contract(
        "decline() in the access phase", "the rules of the server are asked",
        "function f(s) { s.decline(); } export default {f};", "def f(s):\n    s.decline()\n",
        "x_access m.f; deny all; return in;", Seen(b"", "403", (), 1),
    ),
    Contract(
        "deny() in the access phase", "ends the session with status 403",
        "function f(s) { s.deny(); } export default {f};", "def f(s):\n    s.deny()\n",
        "x_access m.f; return in;", Seen(b"", "403"),
    ),
    Contract(
        "two verdicts", "the last one counts",
        "function f(s) { s.deny(); s.allow(); } export default {f};",
        "def f(s):\n    s.deny()\n    s.allow()\n",
        "x_access m.f; return in;", Seen(b"in"),
    ),
    Contract(
        "no verdict, and nothing that is waited for", "status 500",
        "function f(s) { } export default {f};", "def f(s):\n    pass\n",
        "x_access m.f; return in;", Seen(b"", "500"), ours=Seen(b"in"),
        differs="the next handler is asked, as after decline()",
        why="a function that only looks, or sets a variable, need not say so",
    ),
    Contract(
        "an exception", "status 500, and one line of level error",
        "function f(s) { throw new Error('no'); } export default {f};",
        "def f(s):\n    raise ValueError('no')\n",
        "x_access m.f; return in;", Seen(b"", "500", (), 1),
    ),
    Contract(
        "a status of one's own", "done(code) ends the session with it",
        "function f(s) { s.done(503); } export default {f};", "def f(s):\n    s.close('full')\n",
        "x_access m.f; return in;", Seen(b"", "503"), ours=Seen(b"", "200"),
        differs="close(reason) ends it with status 200 and a reason in the log",
        why="the ending of a session has words of its own: `script` here",
    ),
    Contract(
        "waiting for a time in the access phase", "the session waits",
        "function f(s) { setTimeout(function() { s.warn('later'); s.allow(); }, 10); "
        "s.warn('now'); } export default {f};",
        "from ngxstream.scripting import sleep\nasync def f(s):\n    s.log.warning('now')\n"
        "    await sleep(0.01)\n    s.log.warning('later')\n    s.allow()\n",
        "x_access m.f; return in;", Seen(b"in", notes=("now", "later")),
    ),
    Contract(
        "globals of a module", "are anew in each session",
        "var n = 0; function f(s) { n++; s.warn('n ' + n); s.allow(); } export default {f};",
        "n = 0\ndef f(s):\n    global n\n    n += 1\n    s.log.warning(f'n {n}')\n    s.allow()\n",
        "x_access m.f; return in;", Seen(b"in", notes=("n 1", "n 1")),
        ours=Seen(b"in", notes=("n 1", "n 2")), sessions=2,
        differs="are those of the worker; s.state is the session's",
        why="it is how modules of Python are, and a session costs no copy of them",
    ),
)

PREREAD: Final = (
    Contract(
        "a function of the preread phase", "sees each time all that has come, from its start",
        "function f(s) { s.on('upload', function(data, flags) { if (!data.length) return; "
        "s.warn('saw ' + data); if (data.length >= 4) s.allow(); }); } export default {f};",
        "from ngxstream.scripting import MORE\ndef f(s):\n"
        "    s.log.warning('saw ' + s.preread.decode())\n"
        "    return MORE if len(s.preread) < 4 else s.allow()\n",
        "x_preread m.f; return in;", Seen(b"in", notes=("saw ab", "saw abcd")), (b"ab", b"cd"),
    ),
    Contract(
        "before anything has come", "the callback is called with no data",
        "function f(s) { s.on('upload', function(data, flags) { s.warn('saw ' + data.length); "
        "if (data.length) s.allow(); }); } export default {f};",
        "def f(s):\n    s.log.warning(f'saw {len(s.preread)}')\n    s.allow()\n",
        "x_preread m.f; return in;", Seen(b"in", notes=("saw 0", "saw 2")), (b"ab",),
        ours=Seen(b"in", notes=("saw 2",)),
        differs="a plain function is not called; a coroutine is begun",
        why="there is nothing to look at",
    ),
    Contract(
        "a verdict in a callback", "drops all callbacks: it is not called with more",
        "function f(s) { s.on('upload', function(data, flags) { if (!data.length) return; "
        "s.warn('saw ' + data); s.allow(); }); } export default {f};",
        "def f(s):\n    s.log.warning('saw ' + s.preread.decode())\n    s.allow()\n",
        "x_preread m.f; return in;", Seen(b"in", notes=("saw ab",)), (b"ab", b"cd"),
    ),
    Contract(
        "deny() in the preread phase", "ends the session with status 403",
        "function f(s) { s.on('upload', function(data, flags) { if (data.length) s.deny(); }); } "
        "export default {f};", "def f(s):\n    s.deny()\n",
        "x_preread m.f; return in;", Seen(b"", "403"), (b"ab",),
    ),
    Contract(
        "allow() in the preread phase", "the other handlers of the phase are not asked",
        "function f(s) { s.on('upload', function(data, flags) { if (data.length) s.allow(); }); } "
        "export default {f};", "def f(s):\n    s.allow()\n",
        'ssl_preread on; x_preread m.f; return "in $ssl_preread_protocol";', Seen(b"in "),
        (b"ab",),
    ),
    Contract(
        "an exception in the preread phase", "status 500, and one line of level error",
        "function f(s) { s.on('upload', function(data, flags) { if (data.length) "
        "throw new Error('no'); }); } export default {f};",
        "def f(s):\n    raise ValueError('no')\n",
        "x_preread m.f; return in;", Seen(b"", "500", (), 1), (b"ab",),
    ),
    Contract(
        "too little within preread_timeout", "ends the session with status 200",
        "function f(s) { s.on('upload', function(data, flags) { }); } export default {f};",
        "from ngxstream.scripting import MORE\ndef f(s):\n    return MORE\n",
        "x_preread m.f; preread_timeout 100ms; return in;", Seen(b"", "200"), (b"ab",),
    ),
    Contract(
        "a full preread_buffer_size that is not enough",
        "status 400, and one line of level error",
        "function f(s) { s.on('upload', function(data, flags) { }); } export default {f};",
        "from ngxstream.scripting import MORE\ndef f(s):\n    return MORE\n",
        "x_preread m.f; preread_buffer_size 4; return in;", Seen(b"", "400", (), 1), (b"abcd",),
    ),
    Contract(
        "waiting for a time in the preread phase", "the session waits, whatever comes",
        "function f(s) { s.warn('now'); setTimeout(function() { s.warn('later'); s.allow(); }, "
        "10); } export default {f};",
        "from ngxstream.scripting import sleep\nasync def f(s):\n    s.log.warning('now')\n"
        "    await sleep(0.01)\n    s.log.warning('later')\n    s.allow()\n",
        "x_preread m.f; return in;", Seen(b"in", notes=("now", "later")),
    ),
    Contract(
        "the first datagram of a UDP client", "is the data",
        "function f(s) { s.on('upload', function(data, flags) { if (!data.length) return; "
        "s.warn('saw ' + data); s.allow(); }); } export default {f};",
        "def f(s):\n    s.log.warning('saw ' + s.preread.decode())\n    s.allow()\n",
        "x_preread m.f; return in;", Seen(b"in", notes=("saw ab",)), (b"ab",), udp=True,
    ),
    Contract(
        "one datagram that is not enough", "status 400: the buffer is as large as the datagram",
        "function f(s) { s.on('upload', function(data, flags) { if (data.length) "
        "s.warn('saw ' + data); }); } export default {f};",
        "from ngxstream.scripting import MORE\ndef f(s):\n"
        "    s.log.warning('saw ' + s.preread.decode())\n    return MORE\n",
        "x_preread m.f; preread_timeout 100ms; return in;",
        Seen(b"", "400", ("saw ab",), 1), (b"ab",), udp=True,
        ours=Seen(b"", "200", ("saw ab",)),
        differs="the function sees the next ones too, s.datagrams, until preread_timeout",
        why="what decides may stand in the second datagram",
    ),
    Contract(
        "functions of several phases", "are called in the order of the phases",
        "function a(s) { s.warn('access'); s.decline(); } "
        "function p(s) { s.warn('preread'); s.decline(); } "
        "function v(s) { s.warn('variable'); return 'v'; } export default {a, p, v};",
        "def a(s):\n    s.log.warning('access')\n"
        "async def p(s):\n    s.log.warning('preread')\n"
        "def v(s):\n    s.log.warning('variable')\n    return 'v'\n",
        "x_set $v m.v; x_preread m.p; x_access m.a; return $v;",
        Seen(b"v", notes=("access", "preread", "variable")),
    ),
)

VARIABLES: Final = (
    Contract(
        "the function of a variable",
        "is called when the variable is first used, once for a session",
        "function f(s) { s.warn('called'); return 'v'; } export default {f};",
        "def f(s):\n    s.log.warning('called')\n    return 'v'\n",
        'x_set $v m.f; return "$v $v";', Seen(b"v v", notes=("called",)),
    ),
    Contract(
        "a number", "is its text", "function f(s) { return 7; } export default {f};",
        "def f(s):\n    return 7\n", 'x_set $v m.f; return "[$v]";', Seen(b"[7]"),
    ),
    Contract(
        "nothing", "`undefined` is text", "function f(s) { } export default {f};",
        "def f(s):\n    pass\n", 'x_set $v m.f; return "[$v]";', Seen(b"[undefined]"),
        ours=Seen(b"[]"), differs="None is no value",
        why="a map can tell that there is none, and no log has a word that nobody chose",
    ),
    Contract(
        "an exception in the function of a variable",
        "the variable has no value, and one line of level error",
        "function f(s) { throw new Error('no'); } export default {f};",
        "def f(s):\n    raise ValueError('no')\n", 'x_set $v m.f; return "[$v]";',
        Seen(b"[]", faults=1),
    ),
    Contract(
        "a variable that functions write", "has its value, or is empty, before that",
        "function f(s) { s.warn('was ' + s.variables.v); s.variables.v = 'new'; s.allow(); } "
        "export default {f};",
        "def f(s):\n    s.log.warning('was ' + s.variables['v'])\n    s.variables['v'] = 'new'\n",
        'x_var $v "$protocol"; x_var $w; x_access m.f; return "$v[$w]";',
        Seen(b"new[]", notes=("was TCP",)),
    ),
    Contract(
        "a variable that there is not", "is undefined",
        "function f(s) { s.warn(String(s.variables.gone)); s.allow(); } export default {f};",
        "def f(s):\n    s.log.warning(str(s.variables.get('gone', 'undefined')))\n",
        "x_access m.f; return in;", Seen(b"in", notes=("undefined",)),
    ),
)

# the parts of the page
PARTS: Final = {
    "The access phase": ACCESS, "The preread phase": PREREAD, "Filters": FILTERS,
    "Variables": VARIABLES,
}
ALL: Final = tuple(one for part in PARTS.values() for one in part)
