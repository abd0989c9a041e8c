"""The manifests of conf/kubernetes: as Kubernetes describes them, and what is executed of them."""

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import tools
from tests.support.backends import BackendFactory, udp_echo
from tests.support.clients import UdpClient
from tests.support.proxies import ROOT, ProxyFactory
from tests.support.waiting import wait_until

FOLDER = ROOT / "conf" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))


def manifest(name: str) -> dict[str, Any]:
    """Return a manifest."""
    tools.require_module("kubernetes_validate", "interop")
    import yaml  # noqa: PLC0415 - comes with it

    found: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_manifest_is_as_the_schema_says(path: Path) -> None:
    """Of the newest version that the validator knows, and nothing that it does not."""
    wanted = manifest(path.name)
    import kubernetes_validate  # noqa: PLC0415 - of an extra

    assert kubernetes_validate.validate(wanted, "1.33", strict=True)


def test_manifests_belong_together() -> None:
    """Labels are selected, volumes are mounted, ports are those of the configuration."""
    text = manifest("configmap.yaml")["data"]["stream.conf"]
    service = manifest("service.yaml")["spec"]
    for name in ("deployment.yaml", "daemonset.yaml"):
        spec = manifest(name)["spec"]
        labels = spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"] == labels
        pod = spec["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            for port in container.get("ports", ()):
                assert f"listen {port['containerPort']}" in " ".join(text.split())
    assert {"app": "ngxstream"} == service["selector"]


def test_the_configuration_is_judged_well(ngxstream: ProxyFactory, tmp_path: Path) -> None:
    """That of the ConfigMap, but for the folders of a pod."""
    text = manifest("configmap.yaml")["data"]["stream.conf"]
    (tmp_path / "stream.conf").write_text(text.replace("/run/ngxstream", str(tmp_path)))
    command = ngxstream("events {} stream {}", start=False).command()
    done = subprocess.run(
        [*command, "-t", "-q", "-p", str(tmp_path), "-e", "stderr", "-c",
         str(tmp_path / "stream.conf")],
        capture_output=True, text=True, check=False, timeout=60,
    )
    lines = [line for line in done.stderr.splitlines() if "worker_connections exceed" not in line]
    assert (0, []) == (done.returncode, lines)


def test_a_change_of_the_file_is_a_reload(
    ngxstream: ProxyFactory, backends: BackendFactory, tmp_path: Path
) -> None:
    """By the script of the second container; a UDP session goes on with its socket."""
    containers = manifest("daemonset.yaml")["spec"]["template"]["spec"]["containers"]
    (script,) = [one["command"][2] for one in containers if one["name"] == "reload"]
    back = backends.udp(udp_echo)
    program = ngxstream(f"""worker_processes 1; events {{}} stream {{
        server {{ listen 127.0.0.1:@a@ udp; proxy_pass {back.text}; }} }}""")
    words = " ".join([*program.command(), "-p", str(program.prefix)])
    (tmp_path / "ngxstream").write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    (tmp_path / "ngxstream").chmod(0o755)
    script = script.replace("/etc/ngxstream/stream.conf", str(program.conf_file))
    script = script.replace("sleep 5", "sleep 0.05")
    with UdpClient(program.address("a")) as client:
        assert b"one" == client.exchange(b"one")
        before = program.worker_pids()
        with subprocess.Popen(
            ["/bin/sh", "-c", script], cwd=ROOT,
            env={"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        ) as process:
            try:
                wait_until(lambda: sleeps(process.pid), what="the script waits")
                text = program.conf_file.read_text()
                program.conf_file.write_text(text + f"# {time.time()}\n")
                wait_until(lambda: program.worker_pids() not in ([], before), what="new workers")
            finally:
                process.terminate()
        assert b"two" == client.exchange(b"two")
    assert 1 == len(back.sources), "one session"


def sleeps(pid: int) -> bool:
    """Tell whether a script runs sleep."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    try:
        return any(Path(f"/proc/{one}/comm").read_text() == "sleep\n" for one in found)
    except OSError:  # it has ended meanwhile
        return False
