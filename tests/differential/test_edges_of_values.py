"""Values at the edge of what nginx takes: both programs accept them, or refuse them alike."""

import re

import pytest

SERVER = "events {} stream { server { listen 127.0.0.1:@a@ LISTEN; return x; } BLOCK }"
CASES = {
    "a priority of 0 is not set yet": "worker_priority 0; worker_priority 5; events {}",
    "a priority is given twice": "worker_priority 5; worker_priority 6; events {}",
    "a backlog of 2^32": SERVER.replace("LISTEN", "backlog=4294967296").replace("BLOCK", ""),
    "a backlog of 2^31": SERVER.replace("LISTEN", "backlog=2147483648").replace("BLOCK", ""),
    "a fastopen of 2^32 - 1": SERVER.replace("LISTEN", "fastopen=4294967295").replace("BLOCK", ""),
    "a buffer of 2^63 - 1": SERVER.replace("LISTEN", "sndbuf=9223372036854775807").replace(
        "BLOCK", ""
    ),
    "keepalive in two words": SERVER.replace(
        "LISTEN", "so_keepalive=1:2:3 so_keepalive=::0"
    ).replace("BLOCK", ""),
    "keepalive of nothing": SERVER.replace("LISTEN", "so_keepalive=::0").replace("BLOCK", ""),
    "a share of 2^32": SERVER.replace("LISTEN", "").replace(
        "BLOCK", "split_clients a $b { 42949673% a; }"
    ),
    "an old name with a bad value": SERVER.replace("LISTEN", "").replace(
        "BLOCK", "proxy_downstream_buffer x;"
    ),
    "an old name given twice": SERVER.replace("LISTEN", "").replace(
        "BLOCK", "proxy_buffer_size 4k; proxy_upstream_buffer 4k;"
    ),
    "shares of more than a hundred": SERVER.replace("LISTEN", "").replace(
        "BLOCK", "split_clients a $b { 100.01% a; }"
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_both_judge_alike(case: str, both) -> None:
    """The verdict and its message are nginx's."""
    said = []
    for program in both(CASES[case], start=False):
        verdict = program.test()
        lines = re.findall(r"\[(?:emerg|warn)\] .*", verdict.stderr)
        said.append((verdict.code, [re.sub(r" in /\S+:", " in :", line) for line in lines]))
    nginx, ours = said
    assert nginx == ours
