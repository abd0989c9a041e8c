"""Loading: the modules of a user that a configuration imports, and the functions it names.

1. A configuration has a Namespace. Its modules are executed anew each time a configuration is
   read, beside those of an older one, whose functions go on with the globals they have.
2. A module is looked for in the folders of `py_path`, then in the folder of the configuration
   file; what these modules import from those folders belongs to the namespace too. Everything
   else comes from Python's own path, once.
   They are not looked for where the name is of Python's own modules or ngxstream.
3. Outside of the time in which they are executed these modules are in no table of Python's, until
   a worker installs its namespace for good: then a function may import when it runs, too. What a
   function of a former configuration imports then comes from the latest one.
4. The master executes them, perhaps as root: it writes no .pyc files, guarded() undoes what is
   undone cheaply, and an import that does not end is ended.
"""

from __future__ import annotations

import _thread
import contextlib
import importlib
import inspect
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import machinery, util
from types import FrameType, ModuleType
from typing import Any, Final

from ngxstream.core import errors, escape, tracebacks
from ngxstream.scripting import filters

_OURS: Final = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) + "/"
_PYTHON: Final = os.path.dirname(os.__file__) + "/"
MOST_TEXT: Final = 1024  # characters of an exception's text in a log line
IMPORT_S: Final = 30  # as long as new workers have to begin; the master serves no signal meanwhile
AGAIN_S: Final = 1  # after an exception that a module has caught


class ImportLimitError(BaseException):
    """the import takes too long"""


class Hook:
    """A function that a directive names; `call` is None until it is resolved."""

    __slots__ = ("call", "directive", "file", "is_async", "is_plain", "line", "parameters", "word")

    def __init__(
        self, directive: str, word: str, parameters: int, file: str, line: int, *,
        is_plain: bool = False,
    ) -> None:
        """Args: word: `module.function`; parameters: how many arguments it will be given;
        is_plain: it may not be a coroutine function
        """
        self.directive = directive
        self.word = word
        self.parameters = parameters
        self.file = file
        self.line = line
        self.call: Callable[..., Any] = _unresolved
        self.is_async = False
        self.is_plain = is_plain

    def resolve(self, names: Mapping[str, ModuleType]) -> None:
        """Look the function up. Args: names: modules, as directives name them

        Raises: ConfError, with the place of the directive
        """
        try:
            self.call = self._find(names)
            self.is_async = inspect.iscoroutinefunction(self.call)
            if self.is_async and self.is_plain:
                raise errors.ConfError(
                    f'function "{self.word}" cannot be a coroutine function: '
                    f'"{self.directive}" does not wait'
                )
        except errors.ConfError as error:
            raise error.at(self.file, self.line) from None

    def _find(self, names: Mapping[str, ModuleType]) -> Callable[..., Any]:
        word = self.word
        name, dot, attribute = word.rpartition(".")
        if not dot:
            raise errors.ConfError(f'"{word}" is no "module.function"')
        module = names.get(name)
        if module is None:
            raise errors.ConfError(f'no "py_import" directives found for "{word}"')
        try:
            found = getattr(module, attribute)
        except AttributeError as error:
            raise errors.ConfError(f'function "{word}" not found: {_printed(error)}') from None
        except BaseException as error:  # noqa: BLE001 - of a module's own __getattr__()
            raise errors.ConfError(f'function "{word}" not found: {described(error)}') from None
        if not callable(found):
            raise errors.ConfError(f'"{word}" is not a function')
        if inspect.isgeneratorfunction(found) or inspect.isasyncgenfunction(found):
            raise errors.ConfError(f'"{word}" is a generator, its body would not run')
        if inspect.isclass(found) and self.directive != "py_filter":
            raise errors.ConfError(f'"{word}" is a class, not a function')
        if inspect.isclass(found):
            _check_methods(word, found)
        try:
            _signature(found).bind(*[None] * self.parameters)
        except ValueError:
            return found  # type: ignore[no-any-return]  # written in C, and does not say
        except TypeError as error:
            plural = "" if self.parameters == 1 else "s"
            raise errors.ConfError(
                f'function "{word}" must take {self.parameters} argument{plural}: {_printed(error)}'
            ) from None
        except BaseException as error:  # noqa: BLE001 - an object's own __signature__
            raise errors.ConfError(
                f'function "{word}" cannot be looked at: {described(error)}'
            ) from None
        return found  # type: ignore[no-any-return]


def _check_methods(word: str, kind: type) -> None:
    """See whether the methods of a filter can be called. Raises: ConfError"""
    for name, promised in vars(filters.Filter).items():
        own = inspect.getattr_static(kind, name, None)
        if name.startswith("_") or own is promised or not inspect.isfunction(own):
            continue
        given = len(_signature(promised).parameters)
        try:
            _signature(own).bind(*[None] * given)
        except TypeError as error:
            plural = "" if given == 2 else "s"
            raise errors.ConfError(
                f'method "{word}.{name}" must take {given - 1} argument{plural} besides self: '
                f"{error}"
            ) from None


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    """Return what a function takes. Its annotations are not evaluated: Python 3.14 would do so here

    Raises: ValueError for a function written in C that does not say; TypeError
    """
    if sys.version_info >= (3, 14):
        return inspect.signature(function, annotation_format=inspect.Format.STRING)
    return inspect.signature(function)


def _printed(error: BaseException) -> str:
    return escape.shown(text_of(error))


def _unresolved(*args: Any) -> Any:
    raise errors.InternalError("function used before it was looked up")


def _wakeup_fd(fd: int | None = None) -> int:
    """Return where the bytes of signals go; have them go there again. None is lost meanwhile."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        before = signal.set_wakeup_fd(-1)
        wanted = before if fd is None else fd
        if wanted != -1:
            signal.set_wakeup_fd(wanted, warn_on_full_buffer=False)
        return before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _threads() -> int:
    count: Callable[[], int] = _thread._count  # noqa: SLF001 - threading is not imported for it
    return count()


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it is gone
        return ""


class Finder:
    """Finds modules in the folders of a namespace; an entry of sys.meta_path.

    Names of Python's own modules and of ngxstream are not looked for there: a file of a user's
    cannot take their place.
    """

    __slots__ = ("paths",)

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def find_spec(self, name: str, path: Sequence[str] | None,
                  target: ModuleType | None = None) -> machinery.ModuleSpec | None:
        """Return how to load a module, None where it is none of these folders'."""
        if path is not None or _is_reserved(name):
            return None  # a package says itself where its modules are
        return machinery.PathFinder.find_spec(name, self.paths, target)


class Namespace:
    """The modules of one configuration."""

    __slots__ = ("_files", "_finder", "_paths", "modules")

    def __init__(self) -> None:
        self._paths: list[str] = []
        self._finder = Finder(self._paths)
        self._files: set[str] = set()  # of modules that are imported from a file by name
        self.modules: dict[str, ModuleType] = {}  # as sys.modules has them while it is installed

    def add_path(self, path: str) -> None:
        """Look for modules in one more folder."""
        path = os.path.normpath(path)
        if path not in self._paths:
            self._paths.append(path)

    def load(self, name: str, file: str | None) -> ModuleType:
        """Import a module. Args: file: an absolute path; None where it is found by its name

        Raises: ConfError with Python's own message
        """
        if _is_reserved(name):
            raise errors.ConfError(f'module name "{name}" is Python\'s own or ngxstream\'s')
        with self._importing():
            try:
                with guarded(), _limited(IMPORT_S):
                    if file is None:
                        return importlib.import_module(name)
                    return self._execute(name, file)
            except BaseException as error:  # noqa: BLE001 - whatever a module raises
                text = described(error)
                tracebacks.forget(error)
            raise errors.ConfError(f'cannot import "{file or name}": {text}')

    def install(self) -> None:
        """Have imports find this namespace's modules from now on, in the place of another's."""
        for name, module in list(sys.modules.items()):
            if self._is_own(name, module):
                del sys.modules[name]
        sys.meta_path[:] = [one for one in sys.meta_path if type(one) is not Finder]
        sys.meta_path.insert(0, self._finder)
        sys.modules.update(self.modules)

    @contextlib.contextmanager
    def _importing(self) -> Iterator[None]:
        """Have imports find this namespace's modules for a while, and none of another's."""
        former_path, former = list(sys.path), dict(sys.modules)
        finders, writes = list(sys.meta_path), sys.dont_write_bytecode
        others = [name for name, module in former.items() if self._is_own(name, module)]
        for name in others:
            del sys.modules[name]
        sys.meta_path[:] = [self._finder, *(one for one in finders if type(one) is not Finder)]
        sys.modules.update(self.modules)
        sys.dont_write_bytecode = True  # root writes into no folder of a user's
        importlib.invalidate_caches()
        try:
            yield
        finally:
            sys.path[:] = former_path
            sys.meta_path[:] = finders
            sys.dont_write_bytecode = writes
            for name, module in list(sys.modules.items()):
                if self._is_own(name, module):
                    self.modules[name] = module
                    del sys.modules[name]
            for name in others:
                sys.modules[name] = former[name]

    def _is_own(self, name: str, module: ModuleType) -> bool:
        """Tell whether a module is one that this namespace imports, or another one like it."""
        top = name.partition(".")[0]
        if _is_reserved(top):
            return False
        if top != name:
            package = sys.modules.get(top) or self.modules.get(top)
            return package is not None and self._is_own(top, package)
        file = getattr(module, "__file__", None)
        if isinstance(file, str):
            folder = os.path.dirname(file)
            if os.path.basename(file).startswith("__init__."):
                folder = os.path.dirname(folder)
            return file in self._files or os.path.normpath(folder) in self._paths
        places = list(getattr(module, "__path__", ()))  # of a package without __init__.py
        return any(os.path.join(path, name) in places for path in self._paths)

    def _execute(self, name: str, file: str) -> ModuleType:
        """Execute a file as a module. Raises: what it raises; OSError"""
        self._files.add(file)
        loader = machinery.SourceFileLoader(name, file)
        spec = util.spec_from_file_location(name, file, loader=loader)
        assert spec is not None
        module = util.module_from_spec(spec)
        sys.modules[name] = module
        loader.exec_module(module)
        return module


def _is_reserved(name: str) -> bool:
    top = name.partition(".")[0]
    return top in sys.stdlib_module_names or top == "ngxstream"


@contextlib.contextmanager
def guarded(*, may_thread: bool = False) -> Iterator[None]:
    """Undo what a module does to its process when it is executed, where that is cheap.

    The process may be the master: signal handlers and the working directory are as before, and a
    thread, which no worker would have, is refused. Raises: RuntimeError for a thread
    """
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    threads, folder = _threads(), _folder()
    wakeup = _wakeup_fd()
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)
        _wakeup_fd(wakeup)
        if folder and _folder() != folder:
            os.chdir(folder)
    if _threads() > threads and not may_thread:
        raise RuntimeError("it starts a thread, which no worker has: on_load() may do so")


@contextlib.contextmanager
def _limited(limit_s: float) -> Iterator[None]:
    """End what a module does when it is executed: again and again, should it catch that.

    Within guarded(), which sets the former handler. A master that reconfigures has blocked the
    signals that it hears. Raises: ImportLimitError
    """
    ends_s = time.monotonic() + limit_s

    def end(number: int, frame: FrameType | None) -> None:
        if time.monotonic() >= ends_s:  # else somebody has sent the signal
            raise ImportLimitError(f"it takes more than {limit_s:g} s")

    signal.signal(signal.SIGALRM, end)
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM,))
    signal.setitimer(signal.ITIMER_REAL, limit_s, AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


_NO_LOOP: Final = "no running event loop"  # asyncio's words


def described(error: BaseException, text: str | None = None) -> str:
    """Return an exception as logs have it, on one line: `ValueError: text in file:line`.

    The place is the innermost one that is neither of this package nor of the standard library.
    Args: text: what str(error) gave, where it was asked already
    """
    if isinstance(error, SyntaxError):
        text, place = error.msg, f" in {error.filename}:{error.lineno}"
    else:
        place = _place_of(error)
        if text is None:
            text = text_of(error)
    name = type(error).__name__
    if text == _NO_LOOP:
        text += "; asyncio is not used here, ngxstream.scripting has what can be awaited"
    said = f"{name}: {text[:MOST_TEXT]}" if text else name
    return escape.shown(said + place)


def text_of(error: BaseException) -> str:
    """Return str(error), "" where that raises, too."""
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 - a user's __str__
        return ""


def _place_of(error: BaseException) -> str:
    place = ""
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        is_pythons = file.startswith(_PYTHON) and "-packages/" not in file
        if not is_pythons and not file.startswith(("<frozen", _OURS)):
            place = f" in {file}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
