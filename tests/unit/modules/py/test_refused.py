"""The directives of njs are refused by name."""

import pytest

from ngxstream.modules.py import refused
from tests import docs
from tests.support.in_process import build


@pytest.mark.parametrize("name", sorted(refused.REASONS))
def test_a_directive_of_njs_is_refused_by_name(name: str) -> None:
    """Wherever it stands; the error says what there is instead."""
    words = f'"{name}" directive is not supported: {refused.REASONS[name]} in /p/conf/nginx.conf:1'
    server = "server { listen 127.0.0.1:9; return x; %s }"
    for place in (f"stream {{ {name} a b; {server % ''} }}",
                  f"stream {{ {server % f'{name} a b;'} }}", f"{name};"):
        assert words == build(place).error


def test_what_it_points_to_is_there() -> None:
    """Each py_* directive that an error names is one."""
    known = {record.name for module in docs.all_modules() for record in module.directives}
    named = {word.strip(",;") for why in refused.REASONS.values() for word in why.split()}
    to_come = {"py_filter", "py_periodic", "py_shared_dict_zone"}  # of other branches
    assert set() == {word for word in named if word.startswith("py_")} - known - to_come
