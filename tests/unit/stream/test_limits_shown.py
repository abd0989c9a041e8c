"""Zones of limits by rate are shown by name: in the API, which begins their counters anew, too."""

from ngxstream.stream.api import OWN
from tests.support.in_process import InProcess
from tests.support.operations import call, families

CONF = """stream {
    limit_sess_zone $remote_addr zone=a:32k rate=1r/m;
    limit_sess_zone $remote_addr zone=b:32k rate=1r/m;
    limit_datagram_zone $remote_addr zone=c:32k rate=1r/m;
    server { listen 127.0.0.1:@a@; limit_sess zone=a; return text; }
}"""


def test_each_zone_is_shown_among_its_kind() -> None:
    """Also those that nobody has counted in; a counter begins at 0 on demand."""
    with InProcess(CONF) as served:
        for _ in range(2):
            served.read(served.connect())
        shown = call(served, "GET", "/limit_sess", tree=OWN)
        assert {"a": (1, 1), "b": (0, 0)} == {
            name: (zone["passed"], zone["rejected"]) for name, zone in shown.items()
        }
        assert {"c"} == set(call(served, "GET", "/limit_datagram", tree=OWN))
        call(served, "DELETE", "/limit_sess/a", tree=OWN)
        assert 0 == call(served, "GET", "/limit_sess/a", tree=OWN)["passed"]
        assert {'{zone="a"}': 0, '{zone="b"}': 0} == families(served, "limit_sess")[
            "ngxstream_stream_limit_sess_rejected"
        ]
