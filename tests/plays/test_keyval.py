"""Pairs of a keyval_zone while everything around them ends and begins again."""

import json
import os
import signal
from pathlib import Path

from tests.support.api_calls import call, get
from tests.support.clients import UdpClient
from tests.support.waiting import wait_until

ZONE = "/api/9/stream/keyvals/z"


def test_pairs_outlive_workers_reloads_and_restarts(ngxstream, tmp_path: Path) -> None:
    """Both workers see a change at once; what was changed is there whoever has died since."""
    file = tmp_path / "pairs.json"
    program = ngxstream(f"""worker_processes 2; events {{}} stream {{
        keyval_zone zone=z:64k type=prefix timeout=1h state={file};
        keyval $remote_addr $value zone=z;
        server {{ listen 127.0.0.1:@a@ udp; return "$pid $value"; }}
        server {{ listen 127.0.0.1:@api@; api write=on; }}
    }}""", expected=(r"exited on signal 9",))

    def seen() -> dict[str, str]:
        """Return what each of the workers finds."""
        found: dict[str, str] = {}

        def is_done() -> bool:
            with UdpClient(program.address("a")) as client:
                client.send(b"?")
                pid, _, value = client.recv().decode().partition(" ")
            found[pid] = value
            return len(found) == 2

        wait_until(is_done, what="both workers have answered")
        return found

    assert 201 == call(program, ZONE, "POST", {"127.": "first"})[0]
    assert {"first"} == set(seen().values())
    assert 204 == call(program, f"{ZONE}/", "PATCH", {"127.": "second"})[0]
    workers = program.worker_pids()
    assert {"second"} == set(seen().values())
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(left := program.worker_pids()) == 2 and not set(left) & set(workers),
               what="other workers")
    program.wait_log("exited on signal 9")
    assert {"second"} == set(seen().values())
    program.reload()
    assert {"second"} == set(seen().values())
    assert 201 == call(program, ZONE, "POST", {"127.0.": {"value": "third", "expire": 600_000}})[0]
    wait_until(lambda: "third" in file.read_text(), what="the file is written")
    assert 201 == call(program, ZONE, "POST", {"127.0.0.1": "fourth"})[0]
    program.stop(signal.SIGQUIT)  # before the file is due
    assert {"127.", "127.0.", "127.0.0.1"} == json.loads(file.read_text()).keys()
    program.start()
    assert {"fourth"} == set(seen().values())
    assert {"127.": "second", "127.0.": "third", "127.0.0.1": "fourth"} == get(program, ZONE)
