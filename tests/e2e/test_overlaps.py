"""Address ranges on a real API server: its own ServiceCIDR, and pools whose kinds are installed while we watch."""

from __future__ import annotations

import json
from typing import Any

from controller.cluster.watch import ABSENT_S
from tests.controller.running import IP_POOLS
from tests.e2e.conftest import KUSTOMIZED
from tests.e2e.installed import Installed


def overlaps(installed: Installed) -> list[dict[str, Any]]:
    """What `kubereach overlaps` says."""
    said = installed.kubereach("overlaps", "-o", "json")
    assert said.err == ""
    found: list[dict[str, Any]] = said.json["overlaps"]
    assert said.code == (1 if found else 0), said.json
    assert said.json["unread"] == {}
    return found


@KUSTOMIZED
def test_pools_are_held_against_all_that_has_addresses(installed: Installed) -> None:
    """Nothing overlaps; with a pool over a node's address that is told; without its kind it is gone."""
    assert overlaps(installed) == []
    node = installed.plan.nodes[0]
    pool = {"apiVersion": f"{IP_POOLS.group}/v1", "kind": "IPPool", "metadata": {"name": "wide"}}
    pool["spec"] = {"cidr": f"{node.ipv4}/31"}
    installed.kubectl("apply", "-f", "-", stdin=json.dumps(IP_POOLS.object))
    try:
        installed.kubectl(
            "wait", "--for=condition=Established", "crd", f"ippools.{IP_POOLS.group}", "--timeout=60s", timeout_s=70.0
        )
        installed.kubectl("apply", "-f", "-", stdin=json.dumps(pool))
        installed.wait(lambda: overlaps(installed), ABSENT_S + 10, lambda: "no overlap")
        (found,) = overlaps(installed)
        assert (found["cidr"], found["effect"]) == (
            f"{node.ipv4}/32",
            f"a pod may be given the address of {node.name}",
        )
        assert {claim["who"] for claim in found["claims"]} == {f"address of {node.name}", "IPPool wide"}
    finally:
        installed.kubectl("delete", "crd", f"ippools.{IP_POOLS.group}", "--timeout=60s", timeout_s=70.0)
    installed.wait(lambda: not overlaps(installed), ABSENT_S, lambda: overlaps(installed))
