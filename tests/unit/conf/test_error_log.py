"""The error_log directive, and the Log it makes."""

from pathlib import Path

import pytest

from ngxstream.conf import builder, directive, error_log, reader
from ngxstream.conf.directive import Directive
from ngxstream.conf.module import Module
from ngxstream.core import clock, errors, files, log, syslog

DIRECTIVE = Directive("error_log", directive.MAIN, directive.ONE_MORE,
                      error_log.add, "Logs.")
MODULE = Module("test", (DIRECTIVE,))


def specs_of(text: str) -> list[error_log.Spec]:
    """Return the specs of a text of error_log directives. Raises: ConfError"""
    judge = builder.Builder([MODULE], prefix="/p/", conf_prefix="/p/conf/",
                            warn=lambda level, message: None)
    source = reader.read_text(text)
    scope = judge.build(source.main.statements)
    specs: list[error_log.Spec] = scope.given_of(MODULE)["error_log"]
    return specs


@pytest.mark.parametrize(
    ("text", "level"),
    [("", log.ERR), *((name, level) for name, level in log.LEVELS.items()),
     ("debug_core", log.DEBUG), ("debug_event debug_stream", log.DEBUG)],
)
def test_each_level_is_known(text: str, level: int) -> None:
    """The default is error; a class of debugging messages means debug."""
    assert [level] == [spec.level for spec in specs_of(f"error_log logs/x {text};")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("x bogus", 'invalid log level "bogus"'),
        ("x INFO", 'invalid log level "INFO"'),
        ("x stderr", 'invalid log level "stderr"'),
        ("x info warn", 'duplicate log level "warn"'),
        ("x debug_core info", 'duplicate log level "info"'),
        ("x info debug_core", 'invalid log level "debug_core"'),
        ("memory:1k", 'invalid buffer size "1k"'),
        ("memory:x", 'invalid buffer size "x"'),
        ("syslog:", 'unknown syslog parameter ""'),
        ("syslog:tag=x", "no syslog server specified"),
    ],
)
def test_what_is_wrong_is_said_in_nginx_s_words(words: str, message: str) -> None:
    """Target first, then level, as nginx looks at them."""
    with pytest.raises(errors.ConfError) as caught:
        specs_of(f"error_log {words};")
    assert f"{message} in command line" == str(caught.value)


def test_paths_are_relative_to_the_prefix() -> None:
    """Logs do not follow the folder of the configuration."""
    paths = [spec.path for spec in specs_of("error_log logs/x; error_log /abs; error_log stderr;")]
    assert ["/p/logs/x", "/abs", ""] == paths


def test_the_log_has_a_target_for_each_directive(tmp_path: Path) -> None:
    """File, standard error, ring and syslog server, each with its threshold."""
    specs = specs_of(
        f"error_log {tmp_path}/x warn; error_log stderr crit; error_log memory:32k debug; "
        "error_log syslog:server=127.0.0.1:5140 notice;"
    )
    table = files.OpenFiles()
    made = error_log.make_log(specs, table)
    kinds = [log.FileTarget, log.FileTarget, log.MemoryTarget, syslog.SyslogTarget]
    assert kinds == [type(target) for target in made.targets]
    levels = [log.WARN, log.CRIT, log.DEBUG, log.NOTICE]
    assert levels == [target.level for target in made.targets]
    assert log.DEBUG == made.level
    assert table.uses_stderr


def test_the_file_is_written_to_once_the_table_is_open(tmp_path: Path) -> None:
    """The cycle opens what the directives name."""
    table = files.OpenFiles()
    made = error_log.make_log(specs_of(f"error_log {tmp_path}/x info;"), table)
    made.write(log.ERR, "too early")
    table.open_all()
    made.write(log.INFO, "seen")
    made.write(log.DEBUG, "unseen")
    table.close_all()
    lines = (tmp_path / "x").read_text().splitlines()
    assert 1 == len(lines)
    assert lines[0].endswith(": seen")


def test_two_logs_of_one_path_share_the_descriptor(tmp_path: Path) -> None:
    """A server's log and the main log may be one file."""
    table = files.OpenFiles()
    made = error_log.make_log(
        specs_of(f"error_log {tmp_path}/x; error_log {tmp_path}/x info;"), table)
    first, second = made.targets
    assert isinstance(first, log.FileTarget)
    assert isinstance(second, log.FileTarget)
    assert first.file is second.file


def test_a_ring_names_the_directive_s_place() -> None:
    """The header tells which error_log a ring found in memory belongs to."""
    spec = error_log.Spec(log.DEBUG, memory=4096, place="/etc/nginx/nginx.conf:3")
    (target,) = error_log.make_log([spec], files.OpenFiles(), clock=clock.Clock()).targets
    assert isinstance(target, log.MemoryTarget)
    assert target.text().startswith(b"MEMLOG 4096 /etc/nginx/nginx.conf:3\n")


@pytest.mark.parametrize(
    ("text", "added"),
    [("error_log x;", False), ("error_log stderr;", False), ("error_log memory:32k;", True),
     ("error_log syslog:server=127.0.0.1;", True),
     ("error_log syslog:server=127.0.0.1; error_log x;", False)],
)
def test_there_is_always_a_file(text: str, added: bool) -> None:
    """Where no directive names one, what -e names is logged to at level error."""
    specs = tuple(specs_of(text))
    default = (error_log.Spec(log.ERR, "/e"),)
    assert specs + default * added == error_log.with_default(specs, "/e")
    assert default == error_log.with_default((), "/e")
