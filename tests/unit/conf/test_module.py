"""How a module's conf is made of what an outer and an inner block gave."""

from dataclasses import dataclass

from ngxstream.conf.module import Module


@dataclass(frozen=True)
class Conf:
    """Settings with defaults."""

    one: int = 1
    two: int = 2


def test_the_nearest_value_wins_field_by_field() -> None:
    """What nobody gave has its default; what setters keep for themselves stays out."""
    module = Module("m", conf=Conf)
    assert Conf(1, 5) == module.make_conf({"two": 4, "_scratch": 0}, {"two": 5})
    assert Conf(3, 4) == module.make_conf({"two": 4, "one": 3}, {})


def test_a_module_may_merge_by_itself() -> None:
    """It is given both blocks as they are."""
    module = Module("m", merge=lambda outer, inner: (outer, inner))
    assert ({"a": 1}, {"_b": 2}) == module.make_conf({"a": 1}, {"_b": 2})
