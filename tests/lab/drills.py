"""What a drill is: a lab is broken, the cause is named with its very object and nothing beside it, and it clears."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path

from lab import switchboard
from lab.fault import Broken
from tests.lab.watched import NAMED_S, Watched, matches

LABS = (("flannel-vxlan", "iptables"), ("flannel-host-gw", "nftables"), ("calico", "iptables"))
EVERYWHERE = os.environ.get("KUBEREACH_DRILLS") == "all"
# What one file of the trace's tests breaks by hand in each lab, and what a pod or a bridge is like in any.
ALIKE = frozenset(
    {
        "cni.bridge_address_missing",
        "cni.bridge_down",
        "cni.masquerade_missing",
        "cni.pod_route_missing",
        "cni.pod_rules",
        "cni.veth_detached",
        "cni.veth_down",
        "cni.vtep_wrong",
        "node.route_blackhole",
        "node.rp_filter",
    }
)

Kind = tuple[str, str]


def dealt(code: str, kinds: list[Kind]) -> list[Kind]:
    """One of the labs, always the same for a fault."""
    return [kinds[sum(code.encode()) % len(kinds)]]


def named(watched: Watched, code: str, **wanted: str) -> None:
    """Wait for the one incident, and hold that nothing else was blamed."""
    watched.wait(
        lambda: any(matches(i, code, **wanted) for i in watched.open_incidents()), NAMED_S, lambda: said(watched)
    )
    others = [i for i in watched.open_incidents() if not matches(i, code, **wanted)]
    assert others == [], said(watched)


def said(watched: Watched) -> str:
    """The open incidents in short, and what is not as it should be."""
    causes = [
        [i["causes"][0]["code"], i["causes"][0]["object"], i["causes"][0]["summary"]] for i in watched.open_incidents()
    ]
    return f"{json.dumps(causes)}; {watched.healthy()}"


@dataclass(frozen=True)
class ByTwin:
    """A break by the switchboard: named with its object in the background and on demand; healed, it clears."""

    code: str

    def run(self, watched: Watched) -> None:
        """Break, look, heal."""
        kubeconfig = Path(watched.state.kubeconfig)
        made = asyncio.run(switchboard.break_it(watched.plan, kubeconfig, self.code))
        expected = made.expected[0]
        wanted = {"kind": expected.kind, "node": expected.node, "namespace": expected.namespace, "name": expected.name}
        if made.opens:
            named(watched, expected.code, **wanted)
        else:
            watched.wait(lambda: self._says(watched, made, wanted), NAMED_S, lambda: made.says)
        if made.probe:
            answer = watched.kubereach("probe", *made.probe, "-o", "json")
            assert answer.code == made.exit_code, answer
            assert matches(answer.json, expected.code, **wanted), answer.out
        assert made.opens or watched.open_incidents() == [], said(watched)
        asyncio.run(switchboard.heal(watched.plan, kubeconfig, self.code))

    @staticmethod
    def _says(watched: Watched, made: Broken, wanted: dict[str, str]) -> bool:
        """Whether a probe names the cause: a policy takes a moment to be in force."""
        answer = watched.kubereach("probe", *made.probe, "-o", "json").json
        return bool(answer["causes"]) and matches(answer, made.expected[0].code, **wanted)
