"""access_log … sample=: some sessions have a line, which says how many have none."""

from pathlib import Path

import pytest

from ngxstream.modules.log import sinks
from tests.support.in_process import InProcess, build
from tests.support.operations import families

CONF = """stream {
    log_format f '$access_log_left_out $status';
    access_log logs/a.log f %s;
    server { listen 127.0.0.1:@a@; return x; }
    server { listen 127.0.0.1:@b@; return x; }
}"""


def serve(folder: Path, words: str) -> InProcess:
    """Serve two servers with one log."""
    (folder / "logs").mkdir()
    return InProcess(CONF % words, prefix=f"{folder}/")


def lines(folder: Path) -> list[str]:
    """Return what was logged."""
    return (folder / "logs/a.log").read_text().splitlines()


def test_one_of_so_many_is_logged(tmp_path: Path) -> None:
    """Of all servers that have the log together; the others are counted."""
    with serve(tmp_path, "sample=3") as served:
        for n in range(7):
            served.read(served.connect(n % 2))
        assert ["2 200", "2 200"] == lines(tmp_path)
        assert {"access_log_left_out": 5} == served.facts("logs/a.log")
        assert {'{log="logs/a.log"}': 5} == families(served, "access_log")[
            "ngxstream_access_log_left_out"
        ]


def test_a_log_that_leaves_nothing_out_says_nothing_of_another_s(tmp_path: Path) -> None:
    """The same session has a line in both."""
    with serve(tmp_path, "sample=2; access_log logs/b.log f") as served:
        for _ in range(2):
            served.read(served.connect())
    assert ["1 200"] == lines(tmp_path)
    assert ["- 200", "- 200"] == (tmp_path / "logs/b.log").read_text().splitlines()


def test_so_many_a_second_are_logged(tmp_path: Path) -> None:
    """The first of a second, and the next second's first says how many were left out."""
    with serve(tmp_path, "sample=2/s") as served:
        start = served.loop.now_ms // 1000
        count = 0
        while served.loop.now_ms // 1000 < start + 2:
            served.read(served.connect())
            count += 1
        found = lines(tmp_path)
    assert 3 <= len(found) <= 6
    left_out = [int(line.split()[0]) for line in found]
    assert left_out[0] == 0
    assert sum(left_out) > 0
    assert sum(left_out) + len(found) <= count


def test_what_a_condition_leaves_out_is_none_of_the_sample(tmp_path: Path) -> None:
    """It counts nowhere."""
    with serve(tmp_path, "sample=2 if=$bytes_received") as served:
        for _ in range(4):
            served.read(served.connect())
        assert [] == lines(tmp_path)
        assert {} == served.facts("logs/a.log")


@pytest.mark.refusal("access_log")
@pytest.mark.parametrize("word", ["sample=0", "sample=x", "sample=-1/s", "sample=5/m", "sample="])
def test_nonsense_is_refused(word: str) -> None:
    """It is a number, or one a second."""
    assert "invalid sample" in build((CONF % word).replace("@a@", "9").replace("@b@", "8")).error


def test_every_one_is_the_usual() -> None:
    """A sample of one leaves nothing out."""
    assert sinks.Sample(1, 0, None)._is_one(0)  # type: ignore[arg-type]
