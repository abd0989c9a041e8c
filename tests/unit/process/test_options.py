"""The command line, read."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.process import options


def read(*words: str) -> options.Options:
    """Return the options of a call as ngxstream."""
    return options.Options(["/usr/sbin/ngxstream", *words])


def test_defaults_are_those_of_nginx_s_packages() -> None:
    """Without options everything lies where nginx.org's packages put it."""
    made = read()
    assert "/etc/nginx/nginx.conf" == made.conf_file
    assert ("/etc/nginx/", "/etc/nginx/") == (made.prefix, made.conf_prefix)
    assert "/var/log/nginx/error.log" == made.error_log
    assert (False, False, "", "") == (made.test, made.show_version, made.signal, made.directives)


def test_relative_paths_follow_the_prefix() -> None:
    """-c and -e are relative to -p, includes to the folder of -c."""
    made = read("-p", "/srv/x", "-c", "conf/my.conf", "-e", "logs/e.log")
    assert "/srv/x/" == made.prefix
    assert "/srv/x/conf/my.conf" == made.conf_file
    assert "/srv/x/conf/" == made.conf_prefix
    assert "/srv/x/logs/e.log" == made.error_log


def test_a_prefix_alone_leaves_the_configuration_where_it_is() -> None:
    """-p does not move the compiled-in paths, which are absolute."""
    made = read("-p", "/srv/x/")
    assert ("/srv/x/", "/etc/nginx/nginx.conf") == (made.prefix, made.conf_file)


def test_an_empty_or_relative_prefix_is_kept() -> None:
    """The current directory is the prefix of an empty one."""
    assert ("", "my.conf") == (read("-p", "", "-c", "my.conf").prefix,
                               read("-p", "", "-c", "my.conf").conf_file)
    assert "x/my.conf" == read("-p", "x", "-c", "my.conf").conf_file


def test_stderr_is_a_log_without_a_path() -> None:
    """-e stderr is standard error."""
    assert "" == read("-e", "stderr").error_log
    assert "" == read("-estderr").error_log


@pytest.mark.parametrize("words", [["-tq"], ["-t", "-q"], ["-qt"], ["-q", "-", "-t"]])
def test_letters_may_be_grouped(words: list[str]) -> None:
    """The order and the grouping do not matter."""
    made = read(*words)
    assert (True, True) == (made.test, made.quiet)


@pytest.mark.parametrize("words", [["-tc", "/x"], ["-tc/x"], ["-t", "-c/x"]])
def test_a_value_may_be_glued(words: list[str]) -> None:
    """What follows the letter in the same word is its value."""
    made = read(*words)
    assert (True, "/x") == (made.test, made.conf_file)


@pytest.mark.parametrize("name", ["stop", "quit", "reopen", "reload"])
def test_signals_are_known_by_name(name: str) -> None:
    """-s takes nginx's four words."""
    assert name == read("-s", name).signal


NO_LONG_OPTIONS = 'ngxstream: "--help": the only long option is --format=json, see ngxstream -h'


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["foo"], 'invalid option: "foo"'),
        (["-x"], 'invalid option: "x"'),
        (["-tz"], 'invalid option: "z"'),
        (["--"], 'invalid option: "-"'),
        ([""], 'invalid option: ""'),
        (["-s", "bogus"], 'invalid option: "-s bogus"'),
        (["-p"], 'option "-p" requires directory name'),
        (["-e"], 'option "-e" requires file name'),
        (["-c"], 'option "-c" requires file name'),
        (["-g"], 'option "-g" requires parameter'),
        (["-ts"], 'option "-s" requires parameter'),
        (["--help"], f'invalid option: "-"\n{NO_LONG_OPTIONS}'),
    ],
)
def test_what_is_wrong_is_said_in_nginx_s_words(words: list[str], message: str) -> None:
    """Each mistake has nginx's text."""
    with pytest.raises(options.OptionError) as caught:
        read(*words)
    assert message == str(caught.value)


@pytest.mark.parametrize(
    ("argv0", "program"),
    [
        ("/usr/sbin/nginx", "nginx"), ("nginx", "nginx"), ("./nginx", "nginx"),
        ("/opt/ngxstream/bin/ngxstream", "ngxstream"), ("/x/ngxstream/__main__.py", "ngxstream"),
        ("nginx-debug", "ngxstream"), ("", "ngxstream"),
    ],
)
def test_the_name_is_that_of_the_link(argv0: str, program: str) -> None:
    """Only a link named nginx makes us speak as nginx."""
    assert program == options.program_name(argv0)


def test_the_command_to_run_again_is_as_called() -> None:
    """A script is run by its path, a package by the interpreter."""
    assert ["/usr/sbin/nginx", "-t"] == options.Options(["/usr/sbin/nginx", "-t"]).command
    module = options.Options(["/x/ngxstream/__main__.py", "-c", "y"])
    assert [sys.executable, "-m", "ngxstream", "-c", "y"] == module.command


@given(st.lists(st.text(alphabet="-?hvVtTqspecg/x ", max_size=6), max_size=6))
def test_any_words_are_options_or_an_option_error(words: list[str]) -> None:
    """Nothing but OptionError comes out of a bad command line."""
    try:
        made = read(*words)
    except options.OptionError:
        return
    assert made.prefix == "" or made.prefix.endswith("/")


def test_the_format_goes_with_a_test() -> None:
    """--format=json is an option of -t alone, and nginx has no such option."""
    assert ("json", "") == (read("-t", "--format=json").format, read("-t").format)
    for words in (["--format=json"], ["-T", "--format=json"], ["-s", "stop", "--format=json"]):
        with pytest.raises(options.OptionError, match='"--format=json" goes with "-t" alone'):
            read(*words)
    with pytest.raises(options.OptionError, match=r'^invalid option: "-"'):
        options.Options(["nginx", "-t", "--format=json"])
