"""The directives of the main context and their conf (nginx.c, ngx_regex.c, ngx_thread_pool.c).

What they command lives in this layer: privileges, processes, files. `MODULES` comes first in the
builder's list.
"""

from __future__ import annotations

import dataclasses
import grp
import os
import pwd
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ngxstream.conf import directive as d
from ngxstream.conf import error_log, units
from ngxstream.conf.directive import MAIN, Directive
from ngxstream.conf.module import Module
from ngxstream.core import errors, files
from ngxstream.core.facts import WORKERS, Fact
from ngxstream.process import elsewhere, events
from ngxstream.process.places import LOCK_PATH, PID_PATH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ngxstream.conf.builder import Scope
    from ngxstream.conf.reader import Statement

USER: Final = "nobody"
GROUPS: Final = ("nobody", "nogroup")  # whichever the system has
MAX_CPUS: Final = 1024  # CPU_SETSIZE
BLOCKS: Final = ("events", "stream", "http", "mail")  # load_module comes too late after one

@dataclass(frozen=True, slots=True)
class User:
    """Who the workers run as."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Affinity:
    """The CPUs of the workers. Source: ngx_set_cpu_affinity"""

    auto: bool  # the only mask holds the CPUs that are given out one by one
    masks: tuple[frozenset[int], ...]  # of each worker, the last one of all further ones

    def of(self, worker: int) -> frozenset[int]:
        """Return the CPUs of a worker (counted from 0), none for "leave it". Source: nginx.c"""
        if not self.auto:
            return self.masks[min(worker, len(self.masks) - 1)]
        cpus = sorted(self.masks[-1])
        return frozenset(cpus[worker % len(cpus):][:1]) if cpus else frozenset()


@dataclass(frozen=True, slots=True)
class MainConf:
    """What the main context said. Source: ngx_core_conf_t"""

    daemon: bool = True
    master_process: bool = True
    timer_resolution: int = 0  # ms
    worker_processes: int = 1
    worker_shutdown_timeout: int = 0  # ms, 0 for none
    debug_points: str = ""
    user: User | None = None  # None: stay who we are
    worker_priority: int = 0
    worker_cpu_affinity: Affinity | None = None
    worker_rlimit_nofile: int | None = None
    worker_rlimit_core: int | None = None
    working_directory: str = ""
    pid: str = PID_PATH  # absolute
    lock_file: str = LOCK_PATH  # absolute
    env: tuple[str, ...] = ()  # NAME or NAME=value, as written
    error_log: tuple[error_log.Spec, ...] = ()


# -- setters of main -------------------------------------------------------------------------------


def _worker_processes(scope: Scope, module: Module, st: Statement) -> None:
    if "worker_processes" in scope.given_of(module):
        raise errors.ConfError('"worker_processes" directive is duplicate')
    if st.args[0] == "auto":
        count = max(os.sysconf("SC_NPROCESSORS_ONLN"), 1)
    else:
        try:
            count = units.parse_number(st.args[0])
        except ValueError:
            raise errors.ConfError('"worker_processes" directive invalid value') from None
    d.put(scope, module, st, "worker_processes", count)


def _worker_priority(scope: Scope, module: Module, st: Statement) -> None:
    given = scope.given_of(module)
    if given.get("worker_priority"):  # 0 is "not set yet" to nginx
        raise errors.ConfError('"worker_priority" directive is duplicate')
    text = st.args[0]
    sign = -1 if text.startswith("-") else 1
    try:
        value = sign * units.parse_number(text[1:] if text[:1] in ("-", "+") else text)
    except ValueError:
        raise errors.ConfError('"worker_priority" directive invalid number') from None
    given["worker_priority"] = value


def _worker_cpu_affinity(scope: Scope, module: Module, st: Statement) -> None:
    if "worker_cpu_affinity" in scope.given_of(module):
        raise errors.ConfError('"worker_cpu_affinity" directive is duplicate')
    auto = st.args[0] == "auto"
    words = st.args[1:] if auto else st.args
    masks: list[frozenset[int]] = []
    if auto:
        if len(st.args) > 2:
            raise errors.ConfError('invalid number of arguments in "worker_cpu_affinity" directive')
        masks.append(frozenset(range(min(max(os.sysconf("SC_NPROCESSORS_ONLN"), 1), MAX_CPUS))))
    masks += [_cpu_mask(word) for word in words]
    d.put(scope, module, st, "worker_cpu_affinity", Affinity(auto, tuple(masks)))


def _cpu_mask(word: str) -> frozenset[int]:
    """Return the CPUs of one mask, read from its right end as nginx does."""
    if len(word) > MAX_CPUS:
        raise errors.ConfError(f'"worker_cpu_affinity" supports up to {MAX_CPUS} CPUs only')
    cpus: set[int] = set()
    cpu = 0
    for char in reversed(word):
        if char == " ":
            continue
        if char not in "01":
            raise errors.ConfError(f'invalid character "{char}" in "worker_cpu_affinity"')
        if char == "1":
            cpus.add(cpu)
        cpu += 1
    return frozenset(cpus)


def _user(scope: Scope, module: Module, st: Statement) -> None:
    if "user" in scope.given_of(module):
        raise errors.ConfError('"user" directive is duplicate')
    if os.geteuid() != 0:
        scope.warn(
            'the "user" directive makes sense only if the master process runs with super-user '
            "privileges, ignored"
        )
        return
    d.put(scope, module, st, "user", _find_user(st.args[0], st.args[-1:]))


def _find_user(name: str, groups: Sequence[str]) -> User:
    """Look a user and the first of the groups that exists up. Raises: ConfError"""
    name, groups = files.c_string(name), [files.c_string(group) for group in groups]
    try:
        uid = pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        raise errors.ConfError(f'getpwnam("{name}") failed') from None
    for group in groups:
        try:
            return User(name, uid, grp.getgrnam(group).gr_gid)
        except (KeyError, ValueError):
            continue
    raise errors.ConfError(f'getgrnam("{groups[-1]}") failed')


def _env(scope: Scope, module: Module, st: Statement) -> None:
    scope.given_of(module).setdefault("env", []).append(st.args[0])


def _load_module(scope: Scope, module: Module, st: Statement) -> None:
    if any(name in scope.builder.data for name in BLOCKS):
        raise errors.ConfError('"load_module" directive is specified too late')


def _thread_pool(scope: Scope, module: Module, st: Statement) -> None:
    pools = scope.given_of(module).setdefault("_pools", set())
    if st.args[0] in pools:
        raise errors.ConfError(f'duplicate thread pool "{st.args[0]}"')
    pools.add(st.args[0])
    threads = 0
    for word in st.args[1:]:
        name, equals, value = word.partition("=")
        if not equals or name not in ("threads", "max_queue"):
            continue  # nginx lets other words pass
        try:
            number = units.parse_number(value)
        except ValueError:
            number = -1
        if number < (1 if name == "threads" else 0):
            raise errors.ConfError(f'invalid {name} value "{word}"')
        if name == "threads":
            threads = number
    if not threads:
        raise errors.ConfError('"thread_pool" must have "threads" parameter')


MAIN_DIRECTIVES: Final = (
    Directive("daemon", MAIN, d.FLAG, d.flag("daemon"),
              "Whether to go into the background.", default="on"),
    Directive("master_process", MAIN, d.FLAG, d.flag("master_process"),
              "Whether workers are processes of their own; off is for debugging.", default="on"),
    Directive("timer_resolution", MAIN, d.TAKE1, d.msec("timer_resolution"),
              "Accepted; the clock is read once a turn of the event loop."),
    Directive("pid", MAIN, d.TAKE1, d.string("pid"),
              "The file that holds the master's process id.", default=PID_PATH),
    Directive("lock_file", MAIN, d.TAKE1, d.string("lock_file"),
              "Accepted; locks need no file here.", default=LOCK_PATH),
    Directive("worker_processes", MAIN, d.TAKE1, _worker_processes,
              "How many workers serve; auto is one for each CPU.", default="1"),
    Directive("debug_points", MAIN, d.TAKE1,
              d.enum("debug_points", {"stop": "stop", "abort": "abort"}),
              "Accepted; an internal error is logged at alert and ends one session."),
    Directive("user", MAIN, d.TAKE12, _user,
              "The user and group of the workers.", default="nobody"),
    Directive("worker_priority", MAIN, d.TAKE1, _worker_priority,
              "The scheduling priority of the workers (nice).", default="0"),
    Directive("worker_cpu_affinity", MAIN, d.ONE_MORE, _worker_cpu_affinity,
              "The CPUs that each worker may run on."),
    Directive("worker_rlimit_nofile", MAIN, d.TAKE1, d.num("worker_rlimit_nofile"),
              "The limit of open files of a worker."),
    Directive("worker_rlimit_core", MAIN, d.TAKE1, d.offset("worker_rlimit_core"),
              "The limit of the size of a worker's core file."),
    Directive("worker_shutdown_timeout", MAIN, d.TAKE1, d.msec("worker_shutdown_timeout"),
              "How long a worker that was told to leave may finish its sessions."),
    Directive("working_directory", MAIN, d.TAKE1, d.string("working_directory"),
              "The current directory of the workers."),
    Directive("env", MAIN, d.TAKE1, _env,
              "An environment variable that workers keep, or get a value of.", default="TZ"),
    Directive("load_module", MAIN, d.TAKE1, _load_module,
              "Accepted; all modules are built in."),
    Directive("error_log", MAIN, d.ONE_MORE, error_log.add,
              "Where errors are logged: a file, stderr, syslog: or memory:, and from which level.",
              default="/var/log/nginx/error.log error"),
    Directive("pcre_jit", MAIN, d.FLAG, d.flag("_pcre_jit"),
              "Accepted; regular expressions are not matched by PCRE.", default="off"),
    Directive("thread_pool", MAIN, d.TAKE23, _thread_pool,
              "Accepted; there are no threads here."),
    d.unsupported("ssl_engine", MAIN, d.TAKE1,
                  "OpenSSL engines cannot be reached from Python"),
    Directive("ssl_object_cache_inheritable", MAIN, d.FLAG, d.flag("_ssl_object_cache"),
              "Accepted; certificates are read anew on a reload.", default="on"),
)

REFUSED: Final = Fact("messages_refused", WORKERS, "Messages between workers that were refused.")
ADOPTED: Final = Fact("sessions_adopted", WORKERS, "UDP sessions that workers took over from those "
                      "that left.")
LOST: Final = Fact("sessions_not_adopted", WORKERS, "UDP sessions that could not be taken over.")
MAIN_MODULE: Final = Module("main", MAIN_DIRECTIVES, MainConf, facts=(REFUSED, ADOPTED, LOST))
MODULES: Final = (MAIN_MODULE, events.MODULE, elsewhere.MODULE)


def main_conf(scope: Scope) -> MainConf:
    """Make the main conf of what was read so far; enough to find the master for -s.

    Raises: UnplacedError. Source: nginx.c ngx_core_module_init_conf
    """
    builder = scope.builder
    given = dict(scope.given_of(MAIN_MODULE))
    if "user" not in given and os.geteuid() == 0:
        try:
            given["user"] = _find_user(USER, GROUPS)
        except errors.ConfError as error:
            raise errors.UnplacedError(error.message) from None
    for name in ("env", "error_log"):
        given[name] = tuple(given.get(name, ()))
    conf: MainConf = MAIN_MODULE.make_conf({}, given)
    affinity = conf.worker_cpu_affinity
    if (affinity is not None and not affinity.auto
            and len(affinity.masks) not in (1, conf.worker_processes)):
        builder.warn(
            "warn",
            'the number of "worker_processes" is not equal to the number of '
            '"worker_cpu_affinity" masks, using last mask for remaining worker processes',
        )
    return dataclasses.replace(
        conf,
        pid=os.path.join(builder.prefix, files.c_string(conf.pid) or PID_PATH),
        lock_file=os.path.join(builder.prefix, files.c_string(conf.lock_file) or LOCK_PATH),
        working_directory=files.c_string(conf.working_directory),
    )
