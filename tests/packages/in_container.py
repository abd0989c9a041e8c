"""Takes the steps of the Containerfile in a plain root, and uses what comes of it: run there.

    python3 -m tests.packages.in_container TREE DEB

As a rootless engine would: all of it in a user namespace whose users are 65536 of this machine's
that have no right at all, the container's root among them; the network has the loopback interface
only. Python 3.12 or later.
"""

import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
from pathlib import Path

from tests.support.waiting import wait_until

BASE = 300_000  # the first of the users that the container's are
COUNT = 65_536


class Image:
    """What the Containerfile says, done and kept."""

    def __init__(self, tree: Path, deb: Path) -> None:
        """Args: tree: the build context; deb: stands for what `make deb` puts into dist/"""
        self._tree, self._deb = tree, deb
        self.user = "root"
        self.told: dict[str, str] = {}

    def steps(self) -> list[tuple[str, str]]:
        """Return instructions and their words, continued lines joined."""
        text = (self._tree / "conf/container/Containerfile").read_text()
        text = re.sub(r"(?m)^#.*\n", "", text).replace("\\\n", " ")
        found = [line.split(None, 1) for line in text.splitlines() if line.strip()]
        return [(name, rest.strip()) for name, rest in found]

    def build(self) -> None:
        """Take all steps."""
        for name, rest in self.steps():
            if name == "RUN":
                assert self.user == "root"
                done = subprocess.run(["/bin/sh", "-c", rest], stdout=subprocess.PIPE, text=True,
                                      stderr=subprocess.STDOUT, check=False, timeout=300)
                assert 0 == done.returncode, f"{rest}\n{done.stdout}"
            elif name == "COPY":
                self._copy(*shlex.split(rest))
            elif name == "USER":
                self.user = rest
            else:
                assert name in ("FROM", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD")
                self.told[name] = rest

    def _copy(self, *words: str) -> None:
        *sources, target = words
        for source in sources:
            given = [self._deb] if source.startswith("dist/") else list(self._tree.glob(source))
            assert 1 == len(given), source
            if given[0].is_dir():
                shutil.copytree(given[0], target, dirs_exist_ok=True)
                continue
            place = Path(target, given[0].name) if target.endswith("/") else Path(target)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(given[0], place)

    def command(self) -> list[str]:
        """Return what an engine would run."""
        return [*json.loads(self.told["ENTRYPOINT"]), *json.loads(self.told["CMD"])]

    def health(self) -> int:
        """Return the exit code of the health check."""
        words = json.loads(self.told["HEALTHCHECK"].partition("CMD")[2])
        return subprocess.run(words, user=self.user, check=False, timeout=60,
                              stderr=subprocess.DEVNULL).returncode


def mounts() -> set[str]:
    """Return where something is mounted. os.path.ismount() knows none of the same file system."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {re.sub(r"\\([0-7]{3})", lambda one: chr(int(one[1], 8)), line.split()[4])
            for line in lines}


def shift() -> None:
    """Give every file of this root to the users of the namespace."""
    mounted = mounts()
    for folder, names, files in os.walk("/"):
        names[:] = [one for one in names if os.path.join(folder, one) not in mounted]
        for name in (*names, *files):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            if path in mounted or status.st_uid >= BASE:
                continue
            os.lchown(path, status.st_uid + BASE, status.st_gid + BASE)
            if not stat.S_ISLNK(status.st_mode):
                os.chmod(path, stat.S_IMODE(status.st_mode))
    os.chown("/", BASE, BASE)
    for path in ("/tmp", "/run"):
        os.chown(path, BASE, BASE)


def enter() -> None:
    """Become the root of a user namespace; this process goes on there."""
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.unshare(os.CLONE_NEWUSER | os.CLONE_NEWNET)
        os.write(ready[1], b"1")
        os.read(go[0], 1)
        os.setgroups([])
        os.setgid(0)
        os.setuid(0)
        return
    os.read(ready[0], 1)
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{child}/{name}").write_text(f"0 {BASE} {COUNT}\n")
    os.write(go[1], b"1")
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def loopback_up() -> None:
    """Have the loopback interface up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, 0x8914, struct.pack("16sH22x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP


def said(address: tuple[str, int]) -> str:
    """Return what a server says to who connects."""
    with socket.create_connection(address, timeout=20) as sock:
        return sock.makefile().read()


def use(image: Image) -> None:
    """Start it as an engine would, with a template and limits, and look at it."""
    template = Path("/etc/ngxstream/templates/sub/own.conf.template")
    template.parent.mkdir()
    template.write_text('server { listen ${PORT}; return "$TEXT: ${protocol}\\n"; }')
    Path("/etc/ngxstream/ngxstream.conf").write_text(
        Path("/etc/ngxstream/ngxstream.conf").read_text().replace(
            "conf.d/*.conf;", "conf.d/*.conf;\n    include conf.d/sub/*.conf;"))
    out, err = Path("/tmp/out"), Path("/tmp/err")
    assert image.health() != 0
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PORT": "5399",
        "TEXT": "$remote_addr met", "protocol": "filtered out",
        "NGINX_ENTRYPOINT_WORKER_PROCESSES_AUTOTUNE": "1",
        "NGINX_ENVSUBST_FILTER": "^[A-Z]+$",
    }
    with open(out, "wb") as stdout, open(err, "wb") as stderr:
        running = subprocess.Popen(
            ["/usr/bin/setpriv", f"--reuid={image.user}", f"--regid={image.user}", "--init-groups",
             "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", *image.command()],
            stdout=stdout, stderr=stderr, env=environment, stdin=subprocess.DEVNULL,
        )

    def is_up() -> bool:
        assert running.poll() is None, out.read_text() + err.read_text()
        return Path("/run/ngxstream/health.sock").exists() and not image.health()

    wait_until(is_up, timeout=60, what="the container is healthy")
    status = Path(f"/proc/{running.pid}/status").read_text()
    assert re.search(r"(?m)^CapEff:\s+0+$", status)
    assert re.search(r"(?m)^CapBnd:\s+0+$", status)
    assert not re.search(r"(?m)^Uid:\s+0\b", status)
    assert "ngxstream serves: a TCP session from 127.0.0.1:" in said(("127.0.0.1", 5300))
    assert "127.0.0.1 met: TCP\n" == said(("127.0.0.1", 5399))
    workers = Path("/run/ngxstream/main.d/worker_processes.conf").read_text()
    assert f"worker_processes {len(os.sched_getaffinity(0))};\n" == workers
    wait_until(lambda: "127.0.0.1 [" in out.read_text(), what="a line of the access log")
    assert "start worker processes" in err.read_text()
    assert "[emerg]" not in err.read_text()
    assert "[warn]" not in err.read_text()
    print("serves, unprivileged, with logs on stdout and stderr", flush=True)
    running.send_signal(getattr(signal, image.told["STOPSIGNAL"]))
    assert 0 == running.wait(60)
    assert image.health() != 0
    print("stops", flush=True)


def main() -> None:
    """Build and use it. Args: of the command line: the build context, the package"""
    given, package = map(Path, sys.argv[1:])
    # what is lent may be out of reach for who has no right
    tree, deb = Path("/srv/build"), Path("/srv/build/ngxstream.deb")
    shutil.copytree(given / "conf/container", tree / "conf/container")
    shutil.copy(package, deb)
    os.chdir("/")
    shift()
    enter()
    loopback_up()
    image = Image(tree, deb)
    image.build()
    assert "ngxstream" == image.user
    print("built", flush=True)
    use(image)
    print("all well", flush=True)


if __name__ == "__main__":
    main()
