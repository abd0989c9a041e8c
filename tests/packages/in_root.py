"""A life of the Debian package in a root of its own: run there, by its Python, with root's rights.

    python3 -m tests.packages.in_root FIRST.deb SECOND.deb

The second is the same program with a higher version. Prints a line for each step that did what it
should, and "all well" at the end; an assertion that fails ends it. The root is left as it was
found, which is the last step.
"""

import contextlib
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.support.waiting import wait_until

CONF = Path("/etc/ngxstream")
LOGS = Path("/var/log/ngxstream")
PID = Path("/run/ngxstream.pid")
FIRST = "127.0.0.1", 5300  # of the first configuration
FRONT = "127.0.0.1", 5310
BACKEND = "127.0.0.1", 5311
SERVER = f"""
server {{
    listen {FRONT[0]}:{FRONT[1]} udp;
    listen {FRONT[0]}:{FRONT[1]};
    proxy_pass {BACKEND[0]}:{BACKEND[1]};
    proxy_timeout 10m;
}}
"""
CLIENTS = 16
# Not all there is: the root may be a view of a machine that others work on.
TOPS = "/bin", "/etc", "/lib", "/opt", "/run", "/sbin", "/usr", "/var"
# What a system writes on its own account, or dpkg about its work
OTHERS = re.compile(
    r"/(proc|sys|dev|tmp|run/(?!ngxstream)|var/lib/(dpkg|apt|systemd|apparmor|python)|var/cache|var/log/"
    r"(dpkg|alternatives|apt|nginx)|etc/(passwd|group|g?shadow|subuid|subgid)-?$|etc/alternatives$|"
    r"etc/\.pwd\.lock|var/tmp|etc/apparmor\.d/disable$|usr/(lib|share)/python3?|var/lib/nginx|srv$)"
)


def say(text: str) -> None:
    """Print what was seen."""
    print(text, flush=True)


def run(*words: str, code: int | None = 0) -> str:
    """Run a program; return what it said. Args: code: the exit code that it has to have"""
    done = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        stdin=subprocess.DEVNULL, timeout=180,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    )
    assert code is None or done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}"
    return done.stdout


def files() -> set[str]:
    """Return every file and folder that a package could have left behind."""
    found = set()
    for folder, names, rest in (one for top in TOPS for one in os.walk(top)):
        names[:] = [one for one in names if not OTHERS.match(os.path.join(folder, one))
                    and not os.path.ismount(os.path.join(folder, one)) and one != "__pycache__"]
        found |= {os.path.join(folder, one) for one in (*names, *rest)}
    return {one for one in found if not OTHERS.match(one)}


def master() -> int:
    """Return the number in the pid file."""
    return int(PID.read_text())


def is_alive(pid: int) -> bool:
    """Tell whether there is such a process, which is not dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def ours() -> list[tuple[str, int]]:
    """Return all processes of the program: title and user."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            said = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            if said.startswith("ngxstream: ") and is_alive(int(name)):
                found.append((said.strip(), Path(f"/proc/{name}").stat().st_uid))
    return found


def are_leaving(old: int) -> bool:
    """Tell whether all workers of a master take no new clients any more."""
    titles = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1]) == old:
                titles.append(Path(f"/proc/{name}/cmdline").read_bytes())
    return all(b"shutting down" in title for title in titles if b"worker process" in title)


def tcp(address: tuple[str, int]) -> str:
    """Return what is said to a client that only connects."""
    with socket.create_connection(address, timeout=20) as sock:
        return sock.makefile().read()


def no_alerts() -> None:
    """See that the program met nothing that it complains about."""
    bad = re.findall(r"(?m)^.*\[(?:alert|crit|emerg)\].*$", (LOGS / "error.log").read_text())
    assert [] == bad


class Backend:
    """Answers every datagram with the port that it came from, and echoes TCP."""

    def __init__(self) -> None:
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.udp.bind(BACKEND)
        self.tcp = socket.create_server(BACKEND)
        for work in (self._answer, self._echo):
            threading.Thread(target=work, daemon=True).start()

    def _answer(self) -> None:
        while True:
            data, peer = self.udp.recvfrom(2048)
            self.udp.sendto(b"%s %d" % (data, peer[1]), peer)

    def _echo(self) -> None:
        while True:
            sock, _ = self.tcp.accept()
            threading.Thread(target=self._follow, args=(sock,), daemon=True).start()

    def _follow(self, sock: socket.socket) -> None:
        with sock:
            while data := sock.recv(2048):
                sock.sendall(data)


class Traffic:
    """UDP clients that send numbered datagrams until told to end; each has one session.

    A client sends the next datagram when the last was answered, or half a second later.
    """

    def __init__(self) -> None:
        self._end = threading.Event()
        self.sent: dict[int, int] = {}
        self.answered: dict[int, set[int]] = {}
        self.ports: dict[int, set[int]] = {}
        self._failed: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with contextlib.ExitStack() as stack:
                socks = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                         for _ in range(CLIENTS)]
                self._talk(socks)
        except BaseException as error:  # noqa: BLE001 - for who waits
            self._failed.append(error)

    def _talk(self, socks: list[socket.socket]) -> None:
        for number, sock in enumerate(socks):
            sock.connect(FRONT)
            self.sent[number] = 0
            self.answered[number], self.ports[number] = set(), set()
        while not self._end.is_set():
            for number, sock in enumerate(socks):
                self.sent[number] += 1
                sock.send(b"%d" % self.sent[number])
            self._hear(socks, 0.5)
        # what was sent last may be on its way
        wait_until(lambda: self._hear(socks, 0.1) or self.lost == 0, what=f"lost: {self.lost}")

    def _hear(self, socks: list[socket.socket], patience: float) -> bool:
        waited_for = {n for n in range(CLIENTS) if len(self.answered[n]) < self.sent[n]}
        while waited_for:
            ready, _, _ = select.select(socks, [], [], patience)
            if not ready:
                break
            for sock in ready:
                number = socks.index(sock)
                said, port = sock.recv(2048).split()
                self.answered[number].add(int(said))
                self.ports[number].add(int(port))
                waited_for.discard(number)
        return False

    @property
    def lost(self) -> int:
        """How many datagrams were not answered."""
        return sum(self.sent[n] - len(self.answered[n]) for n in self.sent)

    @property
    def total(self) -> int:
        """How many were sent so far."""
        return sum(self.sent.values())

    def flows(self) -> None:
        """Wait until some more were sent, to see that it goes on."""
        before = self.total
        wait_until(lambda: self.total > before + 10 * CLIENTS or self._failed, what="traffic")

    def end(self) -> None:
        """End it: nothing may be lost, and every session is the one that it began as."""
        self._end.set()
        self._thread.join(60)
        if self._failed:
            raise self._failed[0]
        assert 0 == self.lost
        changed = {n: ports for n, ports in self.ports.items() if len(ports) != 1}
        assert {} == changed, f"{changed}\n{(LOGS / 'error.log').read_text()}"


# -- the steps -------------------------------------------------------------------------------------


def installs(deb: str) -> None:
    """Install it: all is there, and nothing has to be made by hand."""
    say(run("dpkg", "-i", deb).splitlines()[-1])
    assert "test is successful" in run("ngxstream", "-t")
    assert f"--conf-path={CONF}/ngxstream.conf" in run("ngxstream", "-V")
    assert "ngxstream:/nonexistent" in re.sub(
        r"^(\w+):.*:(/nonexistent):.*", r"\1:\2", run("getent", "passwd", "ngxstream"))
    assert [] == ours()
    share = Path("/usr/share")
    for page in ("ngxstream.8", "ngxstreamctl.8"):
        assert (share / f"man/man8/{page}.gz").exists()
    for script in ("bash-completion/completions/ngxstreamctl", "zsh/vendor-completions/_ngxstream"):
        assert (share / script).exists()
    example = Path(run("ngxstreamctl", "files").strip()) / "conf" / "quickstart.conf"
    assert example.exists()
    if shutil.which("bash"):
        run("bash", "-n", str(share / "bash-completion/completions/ngxstream"))
    if shutil.which("apparmor_parser"):
        run("apparmor_parser", "-Q", "-K", "-T", "/etc/apparmor.d/usr.sbin.ngxstream")
    say("installed: tests its configuration, serves nothing yet")


@contextlib.contextmanager
def beside_nginx() -> Iterator[None]:
    """Have a real nginx serve, where there is one; it goes on as if we were not there."""
    program = shutil.which("nginx")
    if program is None:
        yield
        return
    Path("/var/log/nginx").mkdir(exist_ok=True)
    run(program)
    pid = Path("/run/nginx.pid").read_text()
    yield
    assert pid == Path("/run/nginx.pid").read_text()
    run(program, "-s", "reload")
    with socket.create_connection(("127.0.0.1", 80), timeout=20) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert b"Server: nginx" in sock.makefile("rb").read()
    run(program, "-s", "stop")
    wait_until(lambda: not is_alive(int(pid)), what="nginx ends")
    say("nginx served beside it, with its own port, pid file and logs")


def serves() -> None:
    """Start it as the first configuration says, then with a server of the operator's."""
    run("ngxstream")
    assert "ngxstream serves: a TCP session" in tcp(FIRST)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(20)
        sock.sendto(b"?", FIRST)
        assert b"ngxstream serves: a UDP session" in sock.recv(2048)
    (CONF / "conf.d/own.conf").write_text(SERVER)
    run("ngxstream", "-s", "reload")
    users = {user for title, user in ours() if "worker process" in title}
    assert {int(run("id", "-u", "ngxstream"))} == users
    say("serves, and reloads")


def is_upgraded(deb: str, traffic: Traffic, long: socket.socket) -> None:
    """Upgrade it: another master serves, the TCP connection and every UDP session go on."""
    old = master()
    begun = traffic.total
    said = run("dpkg", "-i", deb)
    assert f"the master process {old} has a successor" in said, said
    assert old != master()
    traffic.flows()
    long.sendall(b"after the upgrade")
    assert b"after the upgrade" == long.recv(100)
    assert is_alive(old)
    long.close()
    wait_until(lambda: not is_alive(old), what="the old master ends with its last connection")
    wait_until(lambda: not Path(f"{PID}.oldbin").exists(), what="its pid file is gone")
    traffic.flows()  # by the new workers alone
    run("ngxstream", "-s", "reload")
    traffic.flows()
    say(f"upgraded, while {traffic.total - begun} datagrams of {CLIENTS} sessions passed")


def outlives_a_refusal(deb: str) -> None:
    """Upgrade it with a configuration that is refused: what served serves on, dpkg is content."""
    old = master()
    bad = CONF / "conf.d/bad.conf"
    bad.write_text("no_such_directive on;\n")
    said = run("dpkg", "-i", deb)
    assert f"the master process {old} could not be replaced and serves on" in said, said
    assert old == master()
    assert is_alive(old)
    assert "ngxstream serves" in tcp(FIRST)
    bad.unlink()
    log = LOGS / "error.log"
    assert 'unknown directive "no_such_directive"' in log.read_text()
    log.write_text("")  # that was told as it should be
    say("a refused upgrade leaves the old one in its place")


def is_upgraded_twice() -> None:
    """Upgrade it while a connection lasts that has outlived an upgrade: that one is ended."""
    with socket.create_connection(FRONT, timeout=20) as first:
        first.sendall(b"1")
        assert b"1" == first.recv(1)
        oldest = master()
        run("/usr/lib/ngxstream/upgrade")
        wait_until(lambda: are_leaving(oldest), what="who comes now comes to the new ones")
        with socket.create_connection(FRONT, timeout=20) as second:
            second.sendall(b"2")
            assert b"2" == second.recv(1)
            middle = master()
            said = run("/usr/lib/ngxstream/upgrade")
            assert f"the master process {middle} has a successor" in said, said
            assert b"" == first.recv(1)
            second.sendall(b"2")
            assert b"2" == second.recv(1)
    wait_until(lambda: not is_alive(middle), what="the master of the second one ends")
    say("of two upgrades the second one ends what has outlived the first")


def rotates() -> None:
    """Have logrotate move the log away: the program writes into the new one."""
    if shutil.which("logrotate") is None:
        return
    run("ngxstream", "-s", "reload")
    run("logrotate", "--force", "--state", "/tmp/logrotate.state", "/etc/logrotate.d/ngxstream")
    assert (LOGS / "error.log.1").exists()
    wait_until(lambda: "reopening logs" in (LOGS / "error.log.1").read_text(), what="USR1")
    run("ngxstream", "-s", "reload")  # of which the master tells, and workers that leave
    for words in ("reconfiguring", "gracefully shutting down"):
        wait_until(lambda words=words: words in (LOGS / "error.log").read_text(), what=words)
    assert run("id", "-u", "ngxstream").strip() == str((LOGS / "error.log").stat().st_uid)
    say("its logs are rotated")


def speaks_as_nginx() -> None:
    """Register it as an alternative by the name of nginx."""
    run("update-alternatives", "--install", "/usr/local/sbin/nginx", "nginx",
        "/usr/lib/ngxstream/nginx", "10")
    assert run("/usr/local/sbin/nginx", "-t").startswith(
        f"nginx: the configuration file {CONF}/ngxstream.conf")
    run("/usr/local/sbin/nginx", "-s", "reload")
    say("called nginx, it speaks as nginx")


def is_removed(known: set[str]) -> None:
    """Remove it while it serves, then purge it: nothing is left."""
    running = master()
    run("dpkg", "--remove", "ngxstream")
    assert not is_alive(running)
    assert [] == ours()
    assert not Path("/usr/sbin/ngxstream").exists()
    assert (CONF / "conf.d/own.conf").exists()
    assert not os.path.lexists("/usr/local/sbin/nginx")
    say("removed: nothing runs, the configuration is there still")
    run("dpkg", "--purge", "ngxstream")
    left = files() - known
    assert set() == left, sorted(left)
    assert "" == run("getent", "passwd", "ngxstream", code=2)
    gone = known - files()
    assert set() == gone, sorted(gone)
    say("purged: nothing is left")


def main() -> None:
    """Go through its life. Args: of the command line: the two packages"""
    first, second = sys.argv[1:]
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    known = files()
    installs(first)
    backend = Backend()
    with beside_nginx():
        serves()
        traffic = Traffic()
        wait_until(lambda: traffic.total > CLIENTS, what="traffic")
        long = socket.create_connection(FRONT, timeout=20)
        long.sendall(b"hello")
        assert b"hello" == long.recv(100)
        is_upgraded(second, traffic, long)
        traffic.end()
        no_alerts()
        outlives_a_refusal(second)
        is_upgraded_twice()
        rotates()
        speaks_as_nginx()
    no_alerts()
    is_removed(known)
    backend.tcp.close()
    say("all well")


if __name__ == "__main__":
    main()
