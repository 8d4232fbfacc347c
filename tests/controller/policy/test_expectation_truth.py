"""The truth tables of other projects, read as they are. Their form: ../shared/truth/FORMAT.md."""

from __future__ import annotations

from typing import Any

import pytest

from controller.policy import PeerName, PodRef, PolicyModel, Profile, RangeName, relation
from tests.controller.policy.building import FILES, model_of, truth

PROTOCOLS = ("TCP", "UDP", "SCTP")


def model(case: dict[str, Any]) -> PolicyModel:
    """Make the model of a case as its oracle reads it."""
    profile = Profile(
        ip_blocks_select_pods=case["semantics"]["ipBlock_selects_pods"],
        # The oracle of these tables treats host-network pods as others; that is one of the two plugins there are.
        host_network_as_pods=bool(case.get("peers_hostNetwork")),
    )
    return model_of(case["objects"], profile=profile)


def pod(name: str) -> PodRef:
    """Name a pod."""
    return PodRef(*name.split("/"))


def check_points(case: dict[str, Any]) -> int:
    """Every point has its verdict."""
    found = model(case)
    for source, destination, protocol, port, allowed in case["points"]:
        got = found.decide(pod(source), pod(destination), protocol, port)
        assert got.allowed is allowed, (source, destination, protocol, port, got)
    return len(case["points"])


def check_universe(case: dict[str, Any]) -> int:
    """Every pair has the verdict "allowed" but for those listed."""
    found = model(case)
    denied = {tuple(point) for point in case["denied"]}
    names = [
        f"{raw['metadata']['namespace']}/{raw['metadata']['name']}" for raw in case["objects"] if raw["kind"] == "Pod"
    ]
    asked = [(a, b, p, q) for a in names for b in names if a != b for p in PROTOCOLS for q in (80, 81)]
    for point in asked:
        got = found.decide(pod(point[0]), pod(point[1]), point[2], point[3])
        assert got.allowed is (point not in denied), (point, got)
    return len(asked)


def reference(peer: PeerName | RangeName) -> str:
    """Name a peer as the table does."""
    return f"{peer.first}-{peer.last}" if isinstance(peer, RangeName) else f"{peer.namespace}/{peer.name}[{peer.kind}]"


def check_relation(case: dict[str, Any]) -> int:
    """The whole relation is the table, no row more or less."""
    ended = set(case["peers_terminated"])  # they have no policy any more; the oracle does not know that
    expected = {
        tuple(end.get("workload") or "-".join(end["ipRange"]) for end in (row["src"], row["dst"])): row["conns"]
        for row in case["expected"]
    }
    expected = {ends: conns for ends, conns in expected.items() if not ended & set(ends)}
    got: dict[tuple[str, ...], dict[str, list[list[int]]]] = {}
    for row in relation(model(case), "workload").allowed:
        conns = got.setdefault((reference(row.source), reference(row.destination)), {})
        conns[row.protocol] = [list(span) for span in row.ports]
    assert got == expected
    return len(case["objects"])


CHECKS = {"points": check_points, "denied": check_universe, "expected": check_relation}
CASES = [(name, at) for name in FILES for at in range(len(truth(name)))]


@pytest.mark.parametrize(("file", "at"), CASES, ids=[truth(name)[at]["name"] for name, at in CASES])
def test_the_model_gives_the_table(file: str, at: int) -> None:
    """What another project's oracle says of a cluster, the model says too."""
    case = truth(file)[at]
    kinds = [kind for kind in CHECKS if kind in case]
    assert kinds
    assert sum(CHECKS[kind](case) for kind in kinds)
