"""Modules of users: found, executed, looked into, kept apart, and what is said of bad ones."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ngxstream.core import tracebacks
from ngxstream.core.errors import ConfError
from ngxstream.modules.py import loading
from ngxstream.modules.py.loading import Finder, Hook, Namespace, described
from tests.support.in_process import Built, build
from tests.support.proxies import ProxyFactory

SERVER = "server { listen 127.0.0.1:1; return x; }"


def files(folder: Path, **texts: str) -> Path:
    """Write modules; `a/b` is b.py in the folder a."""
    for name, text in texts.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


def judged(folder: Path, text: str) -> Built:
    """Return what becomes of a stream block that looks for modules in a folder."""
    return build(f"stream {{ py_path {folder}; {text} {SERVER} }}")


def namespace(folder: Path) -> Namespace:
    """Return a namespace of one folder."""
    made = Namespace()
    made.add_path(str(folder))
    return made


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(:", "SyntaxError: invalid syntax in {file}:1"),
        ("\nx = missing", "NameError: name 'missing' is not defined in {file}:2"),
        ("import json\njson.loads('')",
         "JSONDecodeError: Expecting value: line 1 column 1 (char 0) in {file}:2"),
        ("import sys\nsys.exit(3)", "SystemExit: 3 in {file}:2"),
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere' in {file}:1"),
        ("raise KeyboardError", "NameError: name 'KeyboardError' is not defined in {file}:1"),
        ("raise GeneratorExit", "GeneratorExit in {file}:1"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt in {file}:1"),
        ("raise ValueError('a\\nb\\x1b')", "ValueError: a\\x0Ab\\x1B in {file}:1"),
        ("class E(Exception):\n def __str__(self): raise E\nraise E()", "E in {file}:3"),
        ("import threading, time\nthreading.Thread(target=time.sleep, args=(0.2,)).start()",
         "RuntimeError: it starts a thread, which no worker has: on_load() may do so"),
    ],
)
@pytest.mark.refusal("py_import", "py_path")
def test_a_module_that_cannot_be_imported_is_refused(
    tmp_path: Path, source: str, message: str
) -> None:
    """With the line of py_import, and with what Python says and where."""
    files(tmp_path, bad=source)
    text = message.format(file=tmp_path / "bad.py")
    assert f'cannot import "bad": {text} in /p/conf/nginx.conf:1' == judged(
        tmp_path, "py_import bad;").error
    by_file = judged(tmp_path, f"py_import bad from {tmp_path}/bad.py;").error
    assert f'cannot import "{tmp_path}/bad.py": {text} in /p/conf/nginx.conf:1' == by_file


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nowhere_at_all", ("cannot import \"nowhere_at_all\": ModuleNotFoundError: "
                           "No module named 'nowhere_at_all'")),
        ("gone from gone.py", ("cannot import \"/p/conf/gone.py\": FileNotFoundError: "
                              "[Errno 2] No such file or directory: '/p/conf/gone.py'")),
        ("json", "module name \"json\" is Python's own or ngxstream's"),
        ("ngxstream.core", "module name \"ngxstream.core\" is Python's own or ngxstream's"),
        ("json from a.py", "module name \"json\" is Python's own or ngxstream's"),
        ("a.py", '"a.py" is a file: "py_import name from a.py" imports it'),
        ("a-b", 'invalid module name "a-b"'),
        ("a of b", 'invalid parameter "of"'),
        ("a b", 'invalid number of arguments in "py_import" directive'),
    ],
)
@pytest.mark.refusal("py_import")
def test_a_name_that_is_none_is_refused(tmp_path: Path, words: str, message: str) -> None:
    """Python's own modules and ngxstream's are no user's."""
    assert f"{message} in /p/conf/nginx.conf:1" == judged(tmp_path, f"py_import {words};").error


FUNCTIONS = """
import functools
def none(): pass
def one(s): pass
def more(s, other=None, *, third=3): pass
def rest(*args): pass
def two(s, other): pass
def keyword(s, *, must): pass
def generator(s): yield
async def async_generator(s): yield
async def async_one(s): pass
def decorated(function):
    @functools.wraps(function)
    def call(*args): return function(*args)
    return call
wrapped = decorated(one)
wrapped_two = decorated(two)
part = functools.partial(two, other=1)
builtin = max
class Class:
    def __init__(self, s): pass
    def method(self, s): pass
    def __call__(self, s): pass
bound = Class(1).method
instance = Class(1)
number = 7
class Unsaid:
    @property
    def __signature__(self): raise OSError("no")
    def __call__(self, s): pass
unsaid = Unsaid()
def __getattr__(name):
    if name == "broken": raise ValueError("a\\nb")
    if name == "leaves": raise SystemExit(3)
    raise AttributeError(f"module 'm' has no attribute {name!r}")
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("one", ""), ("more", ""), ("rest", ""), ("async_one", ""), ("wrapped", ""), ("part", ""),
        ("builtin", ""), ("bound", ""), ("instance", ""),
        ("none", 'function "m.none" must take 1 argument: too many positional arguments'),
        ("two", "function \"m.two\" must take 1 argument: missing a required argument: 'other'"),
        ("wrapped_two",
         "function \"m.wrapped_two\" must take 1 argument: missing a required argument: 'other'"),
        ("keyword", ("function \"m.keyword\" must take 1 argument: "
                    "missing a required keyword-only argument: 'must'")),
        ("generator", '"m.generator" is a generator, its body would not run'),
        ("async_generator", '"m.async_generator" is a generator, its body would not run'),
        ("Class", '"m.Class" is a class, not a function'),
        ("number", '"m.number" is not a function'),
        ("broken", "function \"m.broken\" not found: ValueError: a\\x0Ab in {file}:33"),
        ("leaves", "function \"m.leaves\" not found: SystemExit: 3 in {file}:34"),
        ("unsaid", "function \"m.unsaid\" cannot be looked at: OSError: no in {file}:29"),
        ("missing", "function \"m.missing\" not found: module 'm' has no attribute 'missing'"),
    ],
)
@pytest.mark.refusal("py_access")
def test_what_a_directive_may_name(tmp_path: Path, name: str, message: str) -> None:
    """Whatever can be called with one argument, and says so or cannot say."""
    files(tmp_path, m=FUNCTIONS)
    error = judged(tmp_path, f"py_import m; py_access m.{name};").error
    python = message.replace("missing a required keyword-only argument: 'must'",
                             "missing a required argument: 'must'")  # of some versions
    python, message = (text.replace("{file}", f"{tmp_path}/m.py") for text in (python, message))
    places = {f"{text} in /p/conf/nginx.conf:1" for text in (message, python)}
    assert (error in places) if message else (error == "")


def test_annotations_that_name_what_is_imported_for_types_alone_are_not_evaluated(
    tmp_path: Path,
) -> None:
    """From Python 3.14 on they need no `from __future__ import annotations`."""
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING: from x import Session\n"
    future = "" if sys.version_info >= (3, 14) else "from __future__ import annotations\n"
    files(tmp_path, m=f"{future}{text}def f(s: Session) -> Session: pass\n")
    assert "" == judged(tmp_path, "py_import m; py_access m.f;").error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("py_access f;", '"f" is no "module.function"'),
        ("py_access m.one;", 'no "py_import" directives found for "m.one"'),
        ("py_import m; py_import m;", 'duplicate module "m"'),
        ("py_import m; py_access m.one; py_access m.one;", '"py_access" directive is duplicate'),
    ],
)
@pytest.mark.refusal("py_access", "py_import")
def test_what_the_block_does_not_say_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """A function belongs to a module that the block imports, or one around it."""
    files(tmp_path, m=FUNCTIONS)
    assert f"{message} in /p/conf/nginx.conf:1" == judged(tmp_path, text).error


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("def from_client(self, data): return data", ""),
        ("async def from_client(self, data, more=1): return data", ""),
        ("@staticmethod\n    def from_upstream(data): return data", ""),
        ("def pack(self): return b''", ""),
        ("def helper(self, a, b): pass", ""),
        ("def from_client(self): pass",
         '"m.F.from_client" must take 1 argument besides self: too many positional arguments'),
        ("def client_end(self): pass",
         '"m.F.client_end" must take 1 argument besides self: too many positional arguments'),
        ("def pack(self, more): pass",
         "\"m.F.pack\" must take 0 arguments besides self: missing a required argument: 'more'"),
    ],
)
def test_methods_of_a_filter_are_looked_at(tmp_path: Path, method: str, message: str) -> None:
    """One that could not be called is refused, and not found when the first client comes."""
    text = f"from ngxstream.scripting import Filter\n\n\nclass F(Filter):\n    {method}\n"
    files(tmp_path, m=text)
    built = build(f"stream {{ py_path {tmp_path}; py_import m; "
                  "server { listen 127.0.0.1:1; py_filter m.F; proxy_pass 127.0.0.1:2; } }")
    assert bool(message) == bool(built.error)
    assert message in str(built.error)


def test_an_unused_module_is_executed_all_the_same(tmp_path: Path) -> None:
    """It may have nothing but on_load(), and a fault in it is to be found by -t."""
    files(tmp_path, unused="raise ValueError(7)")
    assert "ValueError: 7" in judged(tmp_path, "py_import unused;").error


@pytest.mark.effect("py_import", "py_path")
def test_packages_and_relative_imports_work(tmp_path: Path) -> None:
    """A package and its modules are one namespace's; nothing of it stays in Python's tables."""
    files(
        tmp_path,
        single="from shop import PRICE\nimport shop.late, inner.leaf\nfrom shop.late import X",
        **{
            "shop/__init__": "from .prices import PRICE", "shop/prices": "PRICE = 7",
            "shop/late": "from . import prices\nX = prices.PRICE + 1", "inner/leaf": "",
        },
    )
    made = namespace(tmp_path)
    single = made.load("single", None)
    assert (7, 8) == (single.PRICE, single.X)
    own = {"shop", "shop.prices", "shop.late", "single", "inner", "inner.leaf"}
    assert own == set(made.modules)
    assert set() == own & set(sys.modules)
    assert not [one for one in sys.meta_path if isinstance(one, Finder)]
    assert not list(tmp_path.rglob("__pycache__"))


def test_two_configurations_have_modules_of_one_name(tmp_path: Path) -> None:
    """Each executes its own, from its own folder or again from the same one."""
    first, second = (files(tmp_path / name, m=f"import n\nV = n.V = '{name}'", n="V = ''")
                     for name in ("one", "two"))
    spaces = [namespace(folder) for folder in (first, second, second)]
    found = [space.load("m", None) for space in spaces]
    assert ["one", "two", "two"] == [module.V for module in found]
    assert 3 == len({id(module) for module in found})
    assert ["one", "two", "two"] == [space.modules["n"].V for space in spaces]


def test_an_installed_namespace_is_what_functions_import_when_they_run(tmp_path: Path) -> None:
    """Another one that is read meanwhile does not see it; the next one takes its place."""
    source = "import state\ndef late():\n import state\n import extra\n return state, extra"
    files(tmp_path, m=source, state="", extra="")
    before = set(sys.modules), list(sys.meta_path)
    try:
        spaces = [namespace(tmp_path) for _ in range(2)]
        found = [space.load("m", None) for space in spaces]
        spaces[0].install()
        state, extra = found[0].late()
        assert spaces[0].modules["state"] is state
        third = namespace(tmp_path)
        third.load("m", None)
        assert third.modules["state"] is not state
        assert sys.modules["state"] is state
        spaces[1].install()
        assert spaces[1].modules["state"] is sys.modules["state"] is not state
        assert found[1].late()[1] is not extra
        assert 1 == sum(isinstance(one, Finder) for one in sys.meta_path)
    finally:
        for name in set(sys.modules) - before[0]:
            del sys.modules[name]
        sys.meta_path[:] = before[1]


def test_a_folder_above_pythons_own_modules_takes_none_of_them(tmp_path: Path) -> None:
    """A configuration may lie in /usr/lib, or in a folder that the program lies below."""
    files(tmp_path, m="import json, ngxstream.scripting, crossplane\nV = json")
    import crossplane  # noqa: PLC0415 - it is there before

    made = namespace(tmp_path)
    for above in (os.path.dirname(os.__file__), Path(loading.__file__).parents[3],
                  Path(os.__file__).parents[1]):
        made.add_path(str(above))
    before = dict(sys.modules)
    module = made.load("m", None)
    assert module.V is sys.modules["json"]
    assert ({"m"}, crossplane) == (set(made.modules), sys.modules["crossplane"])
    assert {name: one for name, one in before.items() if sys.modules.get(name) is not one} == {}


def test_a_file_cannot_take_the_place_of_a_module_of_pythons(tmp_path: Path) -> None:
    """Not for those who import it, either."""
    files(tmp_path, colorsys="raise ValueError", ngxstream="raise ValueError",
          m="import colorsys, ngxstream.scripting\nV = colorsys.rgb_to_hsv")
    assert callable(namespace(tmp_path).load("m", None).V)


def test_what_a_module_does_to_the_process_is_undone(tmp_path: Path) -> None:
    """Signal handlers, the working directory and the path are as they were."""
    files(tmp_path, m="import os, signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: None)\n"
                      "signal.signal(signal.SIGHUP, signal.SIG_IGN)\nos.chdir('/')\n"
                      "signal.set_wakeup_fd(-1)\nsys.path.append('/x')")
    before = [signal.getsignal(n) for n in signal.valid_signals()], os.getcwd(), list(sys.path)
    namespace(tmp_path).load("m", None)
    after = [signal.getsignal(n) for n in signal.valid_signals()], os.getcwd(), list(sys.path)
    assert before == after


@pytest.mark.parametrize("body", ["while True: pass", """
n = 0
while n < 3:
    try:
        while True: pass
    except BaseException:
        n += 1
while True: pass"""])
def test_an_import_that_does_not_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    """With a message; who catches what ends it is told again, and no timer stays.

    The master reads a configuration with these signals blocked, and others may send them.
    """
    monkeypatch.setattr(loading, "IMPORT_S", 0.1)
    monkeypatch.setattr(loading, "AGAIN_S", 0.01)
    before = signal.getsignal(signal.SIGALRM)
    made = namespace(files(tmp_path, spins=body))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGALRM,))
    signal.pthread_kill(threading.get_ident(), signal.SIGALRM)  # another may not block it
    try:
        with pytest.raises(ConfError) as error:
            made.load("spins", None)
        assert signal.SIGALRM in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    assert "ImportLimitError: it takes more than 0.1 s in " in str(error.value)
    assert f"{tmp_path}/spins.py:" in str(error.value)
    assert (0.0, 0.0) == signal.getitimer(signal.ITIMER_REAL)
    assert before == signal.getsignal(signal.SIGALRM)


def test_a_module_that_failed_leaves_nothing(tmp_path: Path) -> None:
    """Nor does what it imported before; another configuration begins anew."""
    files(tmp_path, m="import n\nraise ValueError", n="")
    with pytest.raises(ConfError):
        namespace(tmp_path).load("m", None)
    assert set() == {"m", "n"} & set(sys.modules)
    files(tmp_path, m="import n\nV = 1")
    os.utime(tmp_path / "m.py", (1, 1))
    assert 1 == namespace(tmp_path).load("m", None).V


def test_a_function_that_was_not_looked_up_cannot_be_called() -> None:
    """That is a fault of ours."""
    with pytest.raises(Exception, match="before it was looked up"):
        Hook("py_access", "m.f", 1, "file", 1).call()


def test_who_asks_asyncio_is_told_where_to_look() -> None:
    """Its own words say that something is missing that nobody can give it."""
    coroutine = asyncio.sleep(1)
    with pytest.raises(RuntimeError) as raised:
        coroutine.send(None)
    text = described(raised.value)
    assert "no running event loop; asyncio is not used here, ngxstream.scripting has" in text


def test_an_exception_that_was_told_is_part_of_no_cycle() -> None:
    """Nor are those behind it."""
    module = ModuleType("m")
    code = "def f():\n try:\n  1 / 0\n except ZeroDivisionError as error:\n  raise KeyError(7)"
    exec(compile(code, "/users/m.py", "exec"), module.__dict__)

    def handle() -> str:
        kept: Any = None
        try:
            module.f()
        except BaseException as error:  # noqa: BLE001 - as the callers do
            kept = error
            text = described(error)
            tracebacks.forget(error)
        assert kept.__context__ is not None
        return text

    gc.collect()
    gc.disable()
    try:
        assert "KeyError: 7 in /users/m.py:5" == handle()
        assert 0 == gc.collect()
    finally:
        gc.enable()


def test_a_long_text_is_cut() -> None:
    """A line of the log is bounded."""
    assert len(described(ValueError("x" * 100_000))) < loading.MOST_TEXT + 100


def test_a_program_with_a_broken_module_can_be_stopped(ngxstream: ProxyFactory) -> None:
    """`-s stop` and `-s reopen` import nothing; `-s reload` is refused by the master, and `-t`."""
    program = ngxstream(
        "events {} stream { py_import own; server { listen 127.0.0.1:@a@; py_access own.check; "
        "return x; } }", start=False,
    )
    module = program.conf_file.with_name("own.py")
    module.write_text("def check(s): pass")
    program.start()
    module.write_text("raise OSError('broken')")
    for words in (("-t",), ("-s", "reload")):
        verdict = program.run(*words)
        assert (1, True) == (verdict.code, "OSError: broken" in verdict.stderr)
    assert 0 == program.run("-s", "reopen").code
    assert 0 == program.run("-s", "stop").code
