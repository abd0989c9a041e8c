#!/usr/bin/env python3
"""Lays the files of an installation out, and removes them: `make install`, `make uninstall`.

The program is a folder of Python files, PREFIX/lib/ngxstream, with crossplane beside it, and two
scripts that begin there: no venv, so that it serves under any Python from 3.11 on, is copied to its
place by way of DESTDIR, and is the same in the Debian package. A record of what was made, with
digests, lies in that folder; `uninstall` goes by it:

1. A configuration file that is there already is left as it is; one that was changed since outlives
   `uninstall`, which says so. One that was removed since is not made again.
2. A folder is removed if an `install` made it and it is empty.
3. What a former release had, and this one has not, is removed by its `install`.
"""

import argparse
import compileall
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
RECORD = "installed.json"
SCRIPT = """\
#!{python} -sP
\"\"\"{name}, as it is installed in {lib}.\"\"\"
import sys

sys.path.insert(0, "{lib}")

from {module} import program

sys.exit(program())
"""
PROGRAMS = {"ngxstream": "ngxstream.process.cli", "ngxstreamctl": "ngxstream.ctl.main"}
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.py[co]")
OF_PIP = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")


class File(NamedTuple):
    """A file of an installation. Args: path: as installed; is_conf: whether people change it"""

    path: str
    data: bytes
    mode: int = 0o644
    is_conf: bool = False


class Layout:
    """What goes where. Args: args: the command line"""

    def __init__(self, args: argparse.Namespace) -> None:
        self.destdir = args.destdir
        self.prefix = os.path.normpath(args.prefix)
        self.lib = f"{self.prefix}/lib/ngxstream"
        self.share = f"{self.prefix}/share/ngxstream"
        self.units = args.units or f"{self.prefix}/lib/systemd/system"
        self.zsh = args.zsh or f"{self.prefix}/share/zsh/site-functions"
        self.conf = f"{args.sysconf}/ngxstream/ngxstream.conf"
        self.rotation = f"{args.sysconf}/logrotate.d/ngxstream"
        self.logs, self.pid = args.logs, args.pid
        self.user = args.user
        self.python, self.crossplane = args.python, args.crossplane
        self.is_recorded = not args.no_record
        self.is_compiled = not args.no_compile

    def real(self, path: str) -> Path:
        """Return where a path of the installation is now."""
        return Path(f"{self.destdir}{path}")

    def files(self) -> Iterator[File]:
        """Yield every file."""
        yield from self._tree(ROOT / "ngxstream", f"{self.lib}/ngxstream")
        yield from self._tree(Path(self.crossplane, "crossplane"), f"{self.lib}/crossplane")
        for folder in sorted(Path(self.crossplane).glob("crossplane-*.dist-info")):
            for file in self._tree(folder, f"{self.lib}/{folder.name}"):
                if Path(file.path).name not in OF_PIP:
                    yield file
        for name, module in PROGRAMS.items():
            text = SCRIPT.format(python=self.python, lib=self.lib, module=module, name=name)
            folder = "sbin" if name == "ngxstream" else "bin"
            yield File(f"{self.prefix}/{folder}/{name}", text.encode(), 0o755)
        upgrade = (ROOT / "conf/packaging/upgrade.py").read_text()
        upgrade = upgrade.replace("#!/usr/bin/env python3", f"#!{self.python} -sP", 1)
        upgrade = upgrade.replace("/usr/sbin/ngxstream", f"{self.prefix}/sbin/ngxstream")
        yield File(f"{self.lib}/upgrade", upgrade.encode(), 0o755)
        yield from self._beside()
        yield from self._configuration()

    def _beside(self) -> Iterator[File]:
        """Yield manuals, completions, documents and examples."""
        for page in sorted((ROOT / "docs/man").glob("*.[1-9]")):
            yield File(f"{self.prefix}/share/man/man{page.suffix[1:]}/{page.name}",
                       page.read_bytes())
        for name in PROGRAMS:
            script = ROOT / "conf/completion" / f"{name}.bash"
            yield File(f"{self.prefix}/share/bash-completion/completions/{name}",
                       script.read_bytes())
            yield File(f"{self.zsh}/_{name}", script.with_name(f"_{name}").read_bytes())
        for name in ("README.md", "LICENSE"):
            yield File(f"{self.share}/{name}", (ROOT / name).read_bytes())
        hidden = f"{self.share}/conf/first/", f"{self.share}/conf/packaging/"
        for name in ("docs", "conf"):
            for file in self._tree(ROOT / name, f"{self.share}/{name}"):
                if not file.path.startswith(hidden):
                    yield file
        yield from self._first(f"{self.share}/conf/first")

    def _first(self, folder: str, is_conf: bool = False) -> Iterator[File]:
        """Yield the first configuration, under the name that it has here."""
        first = ROOT / "conf/first"
        text = (first / "nginx.conf").read_text().replace("/var/log/nginx/", f"{self.logs}/")
        if self.user:
            text = text.replace("\nworker_processes", f"\nuser             {self.user};\nworker_processes", 1)
        yield File(f"{folder}/{os.path.basename(self.conf)}", text.encode(), is_conf=is_conf)
        server = first / "conf.d/first.conf"
        yield File(f"{folder}/conf.d/{server.name}", server.read_bytes(), is_conf=is_conf)

    def _configuration(self) -> Iterator[File]:
        """Yield what belongs to the system: configuration, units, rotation of logs."""
        yield from self._first(os.path.dirname(self.conf), is_conf=True)
        unit = (ROOT / "conf/ngxstream.service").read_text()
        unit = unit.replace("/usr/local/sbin/ngxstream", f"{self.prefix}/sbin/ngxstream")
        unit = unit.replace("/run/nginx.pid", self.pid)
        name = os.path.relpath(self.logs, "/var/log")
        logs = "# none below /var/log" if name.startswith("..") else f"LogsDirectory={name}"
        unit = re.sub(r"(?m)^# /var/log/nginx is .*\nLogsDirectory=.*", logs, unit)
        yield File(f"{self.units}/ngxstream.service", unit.encode())
        yield File(f"{self.units}/ngxstream.socket", (ROOT / "conf/ngxstream.socket").read_bytes())
        rotation = (ROOT / "conf/ngxstream.logrotate").read_text()
        rotation = rotation.replace("/var/log/ngxstream/", f"{self.logs}/")
        rotation = rotation.replace("/run/ngxstream.pid", self.pid)
        if not self.user:
            rotation = re.sub(r"(?m)^    create .*\n", "", rotation)
        yield File(self.rotation, rotation.encode(), is_conf=True)

    def _tree(self, source: Path, target: str) -> Iterator[File]:
        """Yield the files below a folder, those of Python's compiler left out."""
        for folder, names, files in os.walk(source):
            names[:] = sorted(set(names) - LEFT_OUT(folder, names))
            for name in sorted(set(files) - LEFT_OUT(folder, files)):
                path = Path(folder, name)
                data = path.read_bytes()
                if path == ROOT / "ngxstream/process/places.py":
                    data = self._places(data.decode()).encode()
                mode = 0o755 if data.startswith(b"#!") else 0o644
                yield File(f"{target}/{path.relative_to(source)}", data, mode)

    def _places(self, text: str) -> str:
        """Write the places of this installation into the source that names them."""
        chosen = {
            "PREFIX": f"{os.path.dirname(self.conf)}/", "CONF_PATH": self.conf,
            "ERROR_LOG_PATH": f"{self.logs}/error.log", "PID_PATH": self.pid,
            "LOCK_PATH": f"{os.path.splitext(self.pid)[0]}.lock", "SHARE": self.share,
        }
        for name, path in chosen.items():
            text, count = re.subn(rf'(?m)^{name}: Final = "[^"]*"', f'{name}: Final = "{path}"', text)
            if count != 1:
                raise SystemExit(f"lay_out: {name} is not in places.py")
        return text


class Record:
    """What was installed: files with their digests, and the folders that were made for them.

    `confs` are those of the files that people change.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._path = layout.real(f"{layout.lib}/{RECORD}")
        self.files: dict[str, str] = {}
        self.folders: list[str] = []
        self.confs: list[str] = []
        if self._path.exists():
            known = json.loads(self._path.read_text())
            self.files, self.folders, self.confs = known["files"], known["folders"], known["confs"]

    def write(self) -> None:
        """Keep it for `uninstall`."""
        new = self._path.with_name(f".{self._path.name}.new")  # half a record would be none
        new.write_text(json.dumps(
            {"files": self.files, "folders": sorted(self.folders), "confs": sorted(self.confs)},
            indent=1, sort_keys=True) + "\n")
        new.replace(self._path)

    def remove(self, path: str, known: str) -> None:
        """Remove a file, but not a configuration that was changed. Args: known: its digest"""
        target = self._layout.real(path)
        if path in self.confs and target.exists() and digest(target.read_bytes()) != known:
            say(f"kept, as it was changed: {path}")
        else:
            target.unlink(missing_ok=True)

    def make_folder(self, path: str) -> None:
        """Make a folder and those above it, and remember which were made."""
        missing = []
        while not self._layout.real(path).is_dir():
            missing.append(path)
            path = os.path.dirname(path)
        for one in reversed(missing):
            self._layout.real(one).mkdir(mode=0o755)
            self.folders.append(one)

    def remove_folders(self) -> None:
        """Remove those that were made and are empty."""
        self._path.unlink(missing_ok=True)
        for path in sorted(self.folders, key=len, reverse=True):
            try:
                self._layout.real(path).rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                say(f"kept, as there are files in it: {path}")


def say(text: str) -> None:
    """Tell who installs."""
    print(text)


def digest(data: bytes) -> str:
    """Return what a file is known again by."""
    return hashlib.sha256(data).hexdigest()


def install(layout: Layout) -> None:
    """Write all files; a configuration that is there stays."""
    layout.real("/").mkdir(parents=True, exist_ok=True)
    record = Record(layout)
    before, record.files = record.files, {}
    confs = set()
    for file in layout.files():
        if file.is_conf:
            confs.add(file.path)
        target = layout.real(file.path)
        if file.is_conf and file.path in before and not target.exists():
            say(f"left out, as it was removed: {file.path}")
            record.files[file.path] = before[file.path]
            continue
        record.make_folder(os.path.dirname(file.path))
        if file.is_conf and target.exists() and file.path not in before:
            say(f"kept, as it was there: {file.path}")
            continue
        record.files[file.path] = digest(file.data)
        if file.is_conf and target.exists() and digest(target.read_bytes()) != before[file.path]:
            say(f"kept, as it was changed: {file.path}")
            record.files[file.path] = before[file.path]
            continue
        new = target.with_name(f".{target.name}.new")  # who runs the old one goes on with that
        new.write_bytes(file.data)
        new.chmod(file.mode)
        new.replace(target)
    for path in sorted(before.keys() - record.files.keys()):
        record.remove(path, before[path])
    record.confs = sorted(confs & record.files.keys())
    record.make_folder(layout.logs)
    if layout.is_recorded:
        record.write()
    if layout.is_compiled:
        compileall.compile_dir(
            layout.real(layout.lib), quiet=1, stripdir=layout.destdir or None, prependdir="/" if
            layout.destdir else None,
        )


def uninstall(layout: Layout) -> None:
    """Remove what an `install` has made."""
    record = Record(layout)
    if not record.files:
        raise SystemExit(f"lay_out: nothing is installed: no {layout.lib}/{RECORD}")
    for path, known in record.files.items():
        record.remove(path, known)
    for folder in [path for path in record.folders if path.startswith(layout.lib)]:
        shutil.rmtree(layout.real(f"{folder}/__pycache__"), ignore_errors=True)
    record.remove_folders()


def main() -> None:
    """Read the command line, and do what it says."""
    parser = argparse.ArgumentParser(description="Installs ngxstream, or removes it.")
    parser.add_argument("verb", choices=("install", "uninstall"))
    parser.add_argument("--destdir", default="", help="folder that stands for /")
    parser.add_argument("--prefix", default="/usr/local")
    parser.add_argument("--sysconf", default="/etc")
    parser.add_argument("--logs", default="/var/log/ngxstream")
    parser.add_argument("--pid", default="/run/ngxstream.pid")
    parser.add_argument("--user", default="", help="of the workers; nginx's default without it")
    parser.add_argument("--python", default=getattr(sys, "_base_executable", sys.executable))
    parser.add_argument("--crossplane", default=sys.path[-1], help="folder it is installed in")
    parser.add_argument("--units", default="", help="folder of systemd's units")
    parser.add_argument("--zsh", default="", help="folder of zsh's completions")
    parser.add_argument("--no-record", action="store_true", help="somebody else removes it")
    parser.add_argument("--no-compile", action="store_true", help="leave that to Python, or to others")
    args = parser.parse_args()
    layout = Layout(args)
    os.umask(0o022)  # workers are of another user, who has to reach the program
    if args.verb == "uninstall":
        uninstall(layout)
    else:
        if not Path(layout.crossplane, "crossplane").is_dir():
            raise SystemExit(f"lay_out: no crossplane in {layout.crossplane}")
        install(layout)


if __name__ == "__main__":
    main()
