"""NetworkPolicies hold in the kernel, in both shapes: what is allowed arrives, what is denied does not."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from lab.embedded.proxy.decision import NodeView
from lab.embedded.proxy.keeper import IptablesKeeper
from lab.embedded.proxy.services import read_service_ports
from lab.policy import calico, kube_router
from lab.policy.keeper import PolicyKeeper, Shape
from lab.policy.objects import read_pods, read_policy
from lab.policy.resolve import resolve
from lab.ruler import Children
from tests.lab.bed import NODE, OUTSIDE, Bed, make_bed, namespace_objects, pod_address, pod_objects

Object = dict[str, Any]
Question = tuple[str, str, int, str]
"""source, target, port, protocol"""
SERVICE = {4: "10.96.0.50", 6: "fd96::50"}


class Enforced:
    """A bed, and a way to put policies in force on its node."""

    def __init__(self, bed: Bed, flavour: str) -> None:
        self.bed = bed
        self.flavour = flavour
        self.children = Children()
        self.keepers = {family: self.keeper(family) for family in (4, 6)}

    def keeper(self, family: int) -> PolicyKeeper:
        """A keeper that knows nothing of what is there, as after a restart."""
        module = calico if self.flavour == "calico" else kube_router
        return PolicyKeeper(self.children, self.bed.node, family, Shape(module.OWNED, module.OWNED_SETS))

    async def apply(self, policies: list[Object]) -> list[bool]:
        """Bring the kernel to these policies in both families; whether each had something to write."""
        pods = read_pods(pod_objects(), namespace_objects())
        parsed = [read_policy(item) for item in policies]
        changed = []
        for family, keeper in self.keepers.items():
            resolved = resolve(parsed, pods, family)
            if self.flavour == "calico":
                made = calico.make_enforcement(resolved, pods, "node-a", family)
            else:
                made = kube_router.make_enforcement(resolved, pods, "node-a", family, [])
            changed.append(await keeper.apply(made))
        return changed

    async def answers(self, questions: list[Question], family: int) -> dict[Question, bool]:
        """Whether the right one answers to each question."""
        found = await asyncio.gather(
            *(
                self.bed.ask(source, self.bed.address(target, family), port, protocol)
                for source, target, port, protocol in questions
            )
        )
        return {question: answer == question[1] for question, answer in zip(questions, found, strict=True)}


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["kube-router", "calico"])
async def enforced(request: pytest.FixtureRequest) -> AsyncIterator[Enforced]:
    """One bed for each shape of enforcement."""
    shape = "routed" if request.param == "calico" else "bridge"
    async with make_bed(shape) as bed:
        yield Enforced(bed, request.param)


def policy(spec: Object, namespace: str = "shop") -> Object:
    """A NetworkPolicy with this spec."""
    return {"metadata": {"namespace": namespace, "name": "p"}, "spec": spec}


WEB = {"matchLabels": {"app": "web"}}
WEB_0 = {"matchLabels": {"name": "web-0"}}
DENY_INGRESS = policy({"podSelector": WEB_0})
OTHER = {"namespaceSelector": {"matchLabels": {"team": "other"}}}
EVERYBODY_ELSE = [("outside", "web-0", 8080, "tcp"), ("web-1", "web-0", 8080, "tcp"), ("visitor", "web-0", 8080, "tcp")]

CASES: dict[str, tuple[Object, list[Question], list[Question]]] = {
    "deny all ingress; the own node and other pods stay reachable": (
        DENY_INGRESS,
        [("node", "web-0", 8080, "tcp"), ("web-0", "web-1", 8080, "tcp"), ("web-0", "outside", 8080, "udp")],
        [*EVERYBODY_ELSE, ("visitor", "web-0", 8080, "udp")],
    ),
    "a pod selector means the policy's own namespace": (
        policy({"podSelector": WEB_0, "ingress": [{"from": [{"podSelector": {}}]}]}),
        [("web-1", "web-0", 8080, "tcp"), ("web-1", "web-0", 8081, "udp")],
        [("visitor", "web-0", 8080, "tcp"), ("outside", "web-0", 8080, "tcp")],
    ),
    "a namespace selector": (
        policy({"podSelector": WEB_0, "ingress": [{"from": [OTHER], "ports": [{"port": 8080}]}]}),
        [("visitor", "web-0", 8080, "tcp")],
        [("visitor", "web-0", 8081, "tcp"), ("visitor", "web-0", 8080, "udp"), ("web-1", "web-0", 8080, "tcp")],
    ),
    "both selectors in one peer are both required": (
        policy({"podSelector": WEB_0, "ingress": [{"from": [{**OTHER, "podSelector": WEB}]}]}),
        [("node", "web-0", 8080, "tcp")],
        EVERYBODY_ELSE,
    ),
    "an address block": (
        policy(
            {
                "podSelector": WEB_0,
                "ingress": [
                    {"from": [{"ipBlock": {"cidr": f"{OUTSIDE[4]}/32"}}, {"ipBlock": {"cidr": "fd77:1::/64"}}]}
                ],
            }
        ),
        [("outside", "web-0", 8080, "tcp"), ("outside", "web-0", 8081, "udp")],
        [("visitor", "web-0", 8080, "tcp")],
    ),
    "everybody but an exception": (
        policy(
            {
                "podSelector": WEB_0,
                "ingress": [
                    {
                        "from": [
                            {"ipBlock": {"cidr": "0.0.0.0/0", "except": [f"{OUTSIDE[4]}/32"]}},
                            {"ipBlock": {"cidr": "::/0", "except": [f"{OUTSIDE[6]}/128"]}},
                        ]
                    }
                ],
            }
        ),
        [("visitor", "web-0", 8080, "tcp"), ("web-1", "web-0", 8080, "udp")],
        [("outside", "web-0", 8080, "tcp")],
    ),
    "what one block excepts another may hold": (
        policy(
            {
                "podSelector": WEB_0,
                "ingress": [
                    {
                        "from": [
                            {"ipBlock": {"cidr": "10.77.0.0/16", "except": ["10.77.1.96/27"]}},
                            {"ipBlock": {"cidr": "10.77.1.0/24"}},
                            {"ipBlock": {"cidr": "fd77::/16", "except": ["fd77:1::90/124"]}},
                            {"ipBlock": {"cidr": "fd77:1::/64"}},
                        ]
                    }
                ],
            }
        ),
        [("outside", "web-0", 8080, "tcp")],
        [("visitor", "web-0", 8080, "tcp")],
    ),
    "a range of ports": (
        policy({"podSelector": WEB_0, "ingress": [{"ports": [{"port": 8081, "endPort": 8090, "protocol": "UDP"}]}]}),
        [("outside", "web-0", 8081, "udp"), ("visitor", "web-0", 8081, "udp")],
        [("outside", "web-0", 8080, "udp"), ("outside", "web-0", 8081, "tcp")],
    ),
    "a protocol without port": (
        policy({"podSelector": WEB_0, "ingress": [{"ports": [{"protocol": "UDP"}]}]}),
        [("outside", "web-0", 8080, "udp")],
        [("outside", "web-0", 8080, "tcp")],
    ),
    "a named port of an ingress rule": (
        policy({"podSelector": WEB_0, "ingress": [{"ports": [{"port": "http"}]}]}),
        [("outside", "web-0", 8080, "tcp"), ("visitor", "web-0", 8080, "tcp")],
        [("outside", "web-0", 8081, "tcp"), ("outside", "web-0", 8080, "udp")],
    ),
    "a named port of an egress rule": (
        policy(
            {
                "podSelector": WEB_0,
                "policyTypes": ["Egress"],
                "egress": [{"to": [OTHER], "ports": [{"port": "http"}]}],
            }
        ),
        [("web-0", "visitor", 8080, "tcp"), ("web-1", "web-0", 8080, "tcp")],
        [("web-0", "visitor", 8081, "tcp"), ("web-0", "web-1", 8080, "tcp")],
    ),
    "egress rules alone isolate egress only when they are named as type": (
        policy({"podSelector": WEB_0, "policyTypes": ["Egress"]}),
        [("web-1", "web-0", 8080, "tcp"), ("outside", "web-0", 8080, "udp")],
        [("web-0", "web-1", 8080, "tcp"), ("web-0", "outside", 8080, "tcp"), ("web-0", "node", 8080, "tcp")],
    ),
    "an ingress rule does not let out": (
        policy(
            {
                "podSelector": WEB,
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": [{"podSelector": WEB}]}],
                "egress": [{"to": [OTHER]}],
            }
        ),
        [("web-0", "visitor", 8080, "tcp"), ("node", "web-1", 8080, "tcp")],
        [("web-0", "web-1", 8080, "tcp"), ("visitor", "web-0", 8080, "tcp")],
    ),
    "egress and ingress are both required on one node": (
        policy({"podSelector": {}, "ingress": [{"from": [{"podSelector": WEB}]}]}, namespace="other"),
        [("visitor", "web-0", 8080, "tcp"), ("node", "visitor", 8080, "tcp")],
        [("web-0", "visitor", 8080, "tcp"), ("outside", "visitor", 8080, "tcp")],
    ),
}


@pytest.mark.parametrize("case", CASES, ids=[name.replace(" ", "-") for name in CASES])
async def test_policy_holds(enforced: Enforced, case: str) -> None:
    """What the policy allows is answered, what it denies is not, in both families."""
    item, allowed, denied = CASES[case]
    await enforced.apply([item])
    expected = {**dict.fromkeys(allowed, True), **dict.fromkeys(denied, False)}
    questions = [*allowed, *denied]
    found = await asyncio.gather(*(enforced.answers(questions, family) for family in (4, 6)))
    assert found == [expected, expected]


async def test_policies_add_up_and_go(enforced: Enforced) -> None:
    """A second policy adds what it allows; with both gone, everything passes; the same again writes nothing."""
    second = policy({"podSelector": WEB_0, "ingress": [{"from": [OTHER]}]})
    second["metadata"]["name"] = "second"
    await enforced.apply([DENY_INGRESS, second])
    questions: list[Question] = [("visitor", "web-0", 8080, "tcp"), ("web-1", "web-0", 8080, "tcp")]
    assert list((await enforced.answers(questions, 4)).values()) == [True, False]
    await enforced.apply([])
    assert list((await enforced.answers(questions, 4)).values()) == [True, True]
    assert await enforced.apply([]) == [False, False]


async def test_a_restart_cleans_up_and_enforces(enforced: Enforced) -> None:
    """A new process finds chains and sets of its forerunner, removes what is needless and enforces what is wanted."""
    many = policy({"podSelector": WEB, "ingress": [{"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}, OTHER]}]})
    many["metadata"]["name"] = "gone"
    await enforced.apply([many])
    enforced.keepers = {family: enforced.keeper(family) for family in (4, 6)}
    await enforced.apply([DENY_INGRESS])
    rules = await enforced.children.run(enforced.bed.node, ["iptables-nft-save"])
    assert "shop/gone" not in rules
    sets = (await enforced.children.run(enforced.bed.node, ["ipset", "list", "-name"])).split()
    module = calico if enforced.flavour == "calico" else kube_router
    known = resolve([read_policy(DENY_INGRESS)], read_pods(pod_objects(), namespace_objects()), 4)
    expected = {"kube-router": len(known), "calico": 0}[enforced.flavour] * 2
    assert len([name for name in sets if module.OWNED_SETS.fullmatch(name)]) == expected
    assert not (await enforced.answers([("web-1", "web-0", 8080, "tcp")], 6)).popitem()[1]


@pytest.mark.parametrize("family", [4, 6])
async def test_an_isolated_pod_reaches_itself_by_its_service(enforced: Enforced, family: Any) -> None:
    """No policy keeps a pod from itself, even where the way leads over the node."""
    await enforced.apply([policy({"podSelector": WEB_0, "policyTypes": ["Ingress", "Egress"]})])
    service = {
        "metadata": {"namespace": "shop", "name": "own"},
        "spec": {"clusterIP": SERVICE[family], "ports": [{"port": 80, "protocol": "TCP"}]},
    }
    piece = {
        "metadata": {"namespace": "shop", "name": "own-1", "labels": {"kubernetes.io/service-name": "own"}},
        "addressType": f"IPv{family}",
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [pod_address(0, family)], "nodeName": "node-a", "conditions": {"ready": True}}],
    }
    view = NodeView("node-a", family, NODE[family], "10.244.0.0/16" if family == 4 else "fd44::/56", None)
    await IptablesKeeper(enforced.children, enforced.bed.node, view).apply(
        read_service_ports([service], [piece], family)
    )
    assert await enforced.bed.ask("web-0", SERVICE[family], 80) == "web-0"
    assert await enforced.bed.ask("web-1", SERVICE[family], 80) != "web-0"
