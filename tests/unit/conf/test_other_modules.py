"""Directives of other builds of nginx: none is one of ours or of nginx's own."""

import pytest

from ngxstream.conf import other_modules
from ngxstream.process import elsewhere
from tests import docs

OURS = {record.name for module in docs.all_modules() for record in module.directives}


def test_no_directive_of_ours_is_said_to_be_another_s() -> None:
    """Neither those that are served nor those of nginx's http and mail modules."""
    assert set() == {name for name in OURS if other_modules.is_plus(name)}
    assert set() == {name for name in OURS if other_modules.third_party(name)}
    assert set() == {name for name in elsewhere.NAMES if other_modules.is_plus(name)}


def test_what_takes_the_place_of_a_directive_is_there() -> None:
    """Each directive that is named in quotes exists."""
    named = {word.split("=")[0].split(" ")[0] for text in other_modules.INSTEAD.values()
             for word in text.split('"')[1::2]}
    assert {"store", "max_conns"} == named - OURS


@pytest.mark.parametrize(
    ("name", "module"),
    [("content_by_lua_block", "lua-nginx-module (OpenResty)"),
     ("ssl_certificate_by_lua_file", "lua-nginx-module (OpenResty)"),
     ("check_interval", "nginx_upstream_check_module (Tengine)"),
     ("stream_server_traffic_status_zone", "nginx-module-sts"),
     ("acme_client", "nginx-acme (or Angie)"),
     ("check_mark", ""), ("listen", "")],
)
def test_whose_a_directive_is(name: str, module: str) -> None:
    """By its name, as a whole."""
    assert module == other_modules.third_party(name)
