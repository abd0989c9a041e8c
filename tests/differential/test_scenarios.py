"""Running scenarios made by chance: clients, backends and logs see the same of both programs.

How many is COUNT, or what the environment says: ``make differential`` runs hundreds. The seed is in
each failure; `NGXSTREAM_SCENARIOS_FROM=SEED NGXSTREAM_SCENARIOS=1` runs one of them again.

Several tell their stories at once, on a machine that may be busy, and some wait for a time to be
over. So what differs is told again, alone and with more time, and counts if it differs each time.
"""

import os
from pathlib import Path
from typing import Final

import pytest

from tests.support import certs, generated_scenarios, scenario_runs, tools

COUNT: Final = int(os.environ.get("NGXSTREAM_SCENARIOS", "30"))
FIRST: Final = int(os.environ.get("NGXSTREAM_SCENARIOS_FROM", "0"))
BATCH: Final = 60
AGAIN_MS: Final = (1000, 3000)  # for what is over soon, the second and the third time


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with an authority and a.test's certificate."""
    tools.require_nginx()
    folder = tmp_path_factory.mktemp("ca")
    certs.Authority(folder).issue("a.test")
    return folder


@pytest.mark.parametrize("first", range(FIRST, FIRST + COUNT, BATCH))
def test_both_do_the_same(first: int, tmp_path: Path, authority: Path) -> None:
    """What clients and backends got, and what the logs say, is the same."""
    seeds = range(first, min(first + BATCH, FIRST + COUNT))
    print(f"scenarios {seeds.start} to {seeds.stop - 1}")
    found = scenario_runs.run(seeds, tmp_path, authority)
    assert list(seeds) == list(found)
    for soon_ms in AGAIN_MS:
        for seed in [seed for seed, told in found.items() if told_of(told)]:
            print(f"scenario {seed} once more, since there is a difference: {told_of(found[seed])}")
            found |= scenario_runs.run([seed], tmp_path, authority, soon_ms)
    assert {} == {seed: told_of(told) for seed, told in found.items() if told_of(told)}


def told_of(accounts: dict[str, scenario_runs.Account]) -> dict[str, list[object]]:
    """Return what differs of a scenario, nginx first, and where it did not come to its end."""
    nginx, ours = accounts["nginx"], accounts["ngxstream"]
    return {
        key: [nginx[key], ours[key]]
        for key in nginx
        if nginx[key] != ours[key] or (key == "stuck" and nginx[key])
    }


def test_a_scenario_is_the_same_for_its_seed() -> None:
    """What was found once can be looked at again; no two of a hundred are alike."""
    assert generated_scenarios.make(7) == generated_scenarios.make(7)
    assert 100 == len({generated_scenarios.make(seed).conf for seed in range(100)})


def test_each_difference_is_seen(tmp_path: Path, authority: Path) -> None:
    """What clients and backends got and the lines of both logs are compared, each of them."""
    (told,) = scenario_runs.run([3], tmp_path, authority).values()
    assert {"stuck", "clients", "backends", "access", "errors"} == set(told["nginx"])
    assert any(told["nginx"]["access"])
    assert any("connected to" in line for line in told["nginx"]["errors"])
    same = {"nginx": told["nginx"], "ngxstream": dict(told["nginx"])}
    assert {} == told_of(same)
    for key in ("clients", "backends", "access", "errors"):
        assert [key] == list(told_of({**same, "ngxstream": {**told["nginx"], key: []}}))
