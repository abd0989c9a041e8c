"""The manual of the directives is whole and true: its examples work, its words are the parsers'."""

import contextlib
import grp
import pwd
import re
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ngxstream.conf import builder as builders
from ngxstream.conf import directive as d
from ngxstream.conf import files, manual, reader
from ngxstream.conf.module import Module
from ngxstream.core import files as log_files
from ngxstream.core import shm_zones
from ngxstream.process import cycle
from tests import docs, manual_pages
from tests.support import certs, geoip, tools, vocabulary

RECORDS = [(module, record) for module in docs.all_modules() for record in module.directives]
ENTRIES = manual.load([record for _, record in RECORDS])
SERVED = sorted(key for key, entry in ENTRIES.items() if entry.example)
SCRIPT = """
from ngxstream import scripting
def check(s): ...
look = told = name = serve = check
def tick(): ...
def choose(s, peers): ...
class Filter(scripting.Filter): ...
"""
# Names in examples that have to be others each time that a parser is tried.
FRESH = {
    "log_format": "basic", "map": "backend", "geo": "country", "split_clients": "backend",
    "keyval": "blocked", "keyval_zone": "blocked", "limit_conn_zone": "clients",
    "limit_sess_zone": "starts", "match": "redis_ping", "upstream": "name_servers",
    "limit_datagram_zone": "rate_of", "limit_bandwidth_zone": "bytes_of",
    "py_set": "visitor_label", "py_var": "my_verdict", "py_shared_dict_zone": "seen",
}
# What is read before a parser sees it: by the reader, which has read the files then.
READ_BEFORE = {"include"}
# What a parser treats in a way of its own, and does not mean for itself.
NOT_MEANT = {"resolver": {"unix"}, "upstream/resolver": {"unix"}}  # an address, of no DNS server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files that examples name."""
    made = tmp_path_factory.mktemp("manual")
    authority = certs.Authority(made / "ca")
    pair = authority.issue("server")
    for name in ("server", "client"):
        (made / f"{name}.pem").write_bytes(pair.cert.read_bytes())
        (made / f"{name}.key").write_bytes(pair.key.read_bytes())
    (made / "ca.pem").write_bytes(authority.cert.read_bytes())
    (made / "crl.pem").write_bytes(authority.crl().read_bytes())
    (made / "passwords.txt").write_text("secret\n")
    (made / "ticket.key").write_bytes(bytes(80))
    (made / "users.htpasswd").write_text("admin:{PLAIN}secret\n")
    (made / "guard.py").write_text(SCRIPT)
    for name, edition, size in (("GeoIP", 1, 3), ("GeoIPOrg", 5, 4), ("GeoIPCity", 2, 3)):
        answers = {"0": b"x\0" * 40} if edition != 1 else {}
        (made / f"{name}.dat").write_bytes(geoip.database(edition, size, answers))
    return made


@pytest.fixture(autouse=True)
def nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no word be a host of the network or a user of the system."""
    def refuse(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    def look_up(name: str) -> SimpleNamespace:
        if name != "www-data":
            raise KeyError(name)
        return SimpleNamespace(pw_uid=33, gr_gid=33)

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(pwd, "getpwnam", look_up)
    monkeypatch.setattr(grp, "getgrnam", look_up)


def built(modules: tuple[Module, ...], key: str, folder: Path, warn: Any) -> None:
    """Read the configuration that an example is. Raises: ConfError"""
    builder = builders.Builder(
        modules, prefix=f"{folder}/", conf_prefix=f"{folder}/", warn=warn,
    )
    builder.data["process"] = "test", f"{folder}/nginx.conf"
    builder.data["zones"] = shm_zones.ZoneTable()
    builder.data["files"] = log_files.OpenFiles()
    text = manual_pages.whole_example(key, ENTRIES[key])
    text = text.replace("/usr/share/GeoIP", str(folder))
    path = f"{folder}/nginx.conf"
    memory = files.Memory({path: text.encode()})
    source = reader.read(path, conf_prefix=f"{folder}/", files=memory)
    builder.build(source.main.statements)


def records_of(key: str) -> list[tuple[Module, d.Directive]]:
    """Return the records that an entry stands for."""
    every = [record for _, record in RECORDS]
    return [(module, one) for module, one in RECORDS if manual.key_of(one, every) == key]


@pytest.mark.parametrize("key", SERVED)
def test_an_example_is_a_good_configuration(key: str, folder: Path) -> None:
    """It is read without an error or a warning of anything else, and uses its directive."""
    warnings: list[str] = []
    built(cycle.MODULES, key, folder, lambda level, text: warnings.append(text))
    name = key.rpartition("/")[2]
    assert re.search(rf"(?m)(^|[\s{{;]){name}\b", manual_pages.whole_example(key, ENTRIES[key]))


@pytest.mark.parametrize("key", SERVED)
def test_the_manual_names_the_words_that_a_parser_takes(key: str, folder: Path) -> None:
    """Each word of the manual is taken by the parser, and the parser takes no other."""
    entry = ENTRIES[key]
    documented = {word for word in entry.words if re.fullmatch(r"[\w.]+", word)}
    choices = {one.words[-1]: set(one.values) for one in entry.parameters if one.values}
    taken: set[str] = set()
    values: dict[str, set[str]] = {}
    for module, record in records_of(key):
        words = vocabulary.candidates(entry.file.with_suffix(".py"), record)
        trial = vocabulary.Trial(words | documented, choices, FRESH.get(key, ""),
                                 has_items=bool(entry.items))
        modules = (trial.module(one, record) if one is module else one for one in cycle.MODULES)
        with contextlib.suppress(vocabulary.EnoughError):
            built(tuple(modules), key, folder, trial.warn)
        taken |= trial.taken
        values |= trial.values
        if record.takes.flag:  # which has `on` and `off` as all flags do
            taken -= {"on", "off"} - documented
    ignored = NOT_MEANT.get(key, set())
    said = f"[{key}.parameters] of {entry.file.name}"
    assert set() == taken - documented - ignored, f"the parser takes them, {said} lacks them"
    assert set() == documented - taken - READ_BEFORE, f"{said} has them, the parser does not"
    assert choices == values, said


def test_a_word_that_the_manual_lacks_is_found(folder: Path) -> None:
    """The trial finds the words of `api` without being told them."""
    (module, record), = records_of("api")
    entry = ENTRIES["api"]
    found = vocabulary.candidates(entry.file.with_suffix(".py"), record)
    trial = vocabulary.Trial(found, ["write"])
    modules = (trial.module(one, record) if one is module else one for one in cycle.MODULES)
    with pytest.raises(vocabulary.EnoughError):
        built(tuple(modules), "api", folder, trial.warn)
    assert {"write", "prefix"} == trial.taken
    assert {"write": {"on", "off"}} == trial.values


def test_values_have_a_meaning() -> None:
    """Each `<name>` of a syntax is a parameter of the directive, or one that all pages explain."""
    unknown = set()
    for key, entry in ENTRIES.items():
        own = {one.form for one in (*entry.parameters, *entry.items)}
        texts = (*entry.syntax, *own)
        for name in {name for text in texts for name in re.findall(r"<([^<>]+)>", text)}:
            if name not in manual_pages.VALUES and not any(f"<{name}>" in form for form in own):
                unknown.add(f"{key}: <{name}>")
    assert set() == unknown


def test_topics_and_pages_are_there() -> None:
    """Each file of entries has a topic that is printed; the pages that entries name exist."""
    assert set() == {entry.topic for entry in ENTRIES.values()} - set(manual_pages.TOPICS)
    named = {page for entry in ENTRIES.values() for page in entry.see}
    assert [] == sorted(page for page in named if not (docs.DOCS / page).is_file())


def test_an_entry_stands_beside_the_module_that_declares_its_directive() -> None:
    """geo.toml is beside geo.py, which has their names in it, or what they begin with."""
    for key in SERVED:
        source = ENTRIES[key].file.with_suffix(".py")
        words = key.rpartition("/")[2].split("_")
        names = {"_".join(words[:count + 1]) for count in range(min(1, len(words) - 1), len(words))}
        assert any(f'"{name}"' in source.read_text() for name in names), source


def test_the_man_page_is_shown_without_a_warning() -> None:
    """groff has nothing to say of it, mandoc misses its date alone; every directive is there."""
    page = docs.DOCS / "man" / "ngxstream.conf.5"
    shown = subprocess.run(
        [tools.require("groff"), "-man", "-ww", "-Tutf8", "-P-cbou", str(page)],
        capture_output=True, text=True, check=True, timeout=60,
    )
    assert "" == shown.stderr
    names = {name for name in ENTRIES if re.search(rf"\b{name.rpartition('/')[2]}\b", shown.stdout)}
    assert set(ENTRIES) == names
    said = subprocess.run([tools.require("mandoc"), "-Tlint", str(page)],
                          capture_output=True, text=True, check=False, timeout=60).stdout
    assert [] == [line for line in said.splitlines() if "missing date" not in line]
