"""Cluster state and policy → the plan of every agent. Pure: the same input gives the same plan, wherever it is made."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import msgspec

from controller.cluster.state import ClusterState, Node
from controller.plan.draft import Context, Draft
from controller.plan.forbidden import add_forbidden
from controller.plan.mesh import add_mesh, add_sample
from controller.plan.names import add_dns, add_egress
from controller.plan.order import fixed_offsets, is_full_mesh, relays_of, ring_of, step_offsets, targets
from controller.plan.paths import ClusterPlan, Path, PlanSettings, Unsampled
from controller.plan.services import add_backends, add_services, fronts
from controller.policy.model import PolicyModel
from model.probes import RELAY_PORT, Plan, RelayPeer

# Forbidden connections that do not all fit have their turn for so many epochs.
TURN_EPOCHS = 2

_encoder = msgspec.json.Encoder()


def make_plans(
    cluster: ClusterState,
    policy: PolicyModel | None,
    settings: PlanSettings,
    agents: frozenset[str] | None = None,
    epoch: int = 0,
    ring: tuple[str, ...] = (),
) -> ClusterPlan:
    """The plan of a cluster.

    A node is planned for as long as its object exists and is not being deleted, be it Ready or not: a node that falls
    silent must stay in sight. Its endpoint is a target once it was ready, and for as long as that pod exists.
    `agents` are the nodes whose agent was seen and did not say goodbye (None: take all for granted). `epoch` and `ring`
    matter above the full mesh alone: which offsets have their turn, and the frozen order of the nodes.
    """
    nodes = tuple(n for _, n in sorted(cluster.nodes.items()) if not n.deleting)
    turn = epoch // TURN_EPOCHS
    endpoints = {node: pod for node, pod in cluster.endpoint_pods.items() if pod.was_ready}
    context = Context(cluster, policy, settings, nodes, agents, endpoints)
    drafts = {node.name: Draft(node.name) for node in nodes}
    if is_full_mesh(len(nodes), settings.node_rate):
        epoch = 0
        for node in nodes:
            add_mesh(drafts[node.name], context, node, tuple(n for n in nodes if n is not node))
    else:
        _add_samples(drafts, context, epoch, ring)
    found = fronts(context)
    for node in nodes:
        draft = drafts[node.name]
        add_services(draft, context, node, found)
        add_backends(draft, context, node, found)
        add_dns(draft, context, node)
        add_egress(draft, context, node)
    rotates = add_forbidden(drafts, context, turn)
    return replace(_collect(cluster, context, drafts, epoch), rotates=rotates)


def zones_of(nodes: tuple[Node, ...] | list[Node]) -> dict[str, str]:
    """Node name → zone."""
    return {node.name: node.zone for node in nodes}


def _add_samples(drafts: Mapping[str, Draft], context: Context, epoch: int, ring: tuple[str, ...]) -> None:
    key = context.settings.key
    ring = ring or ring_of(zones_of(context.nodes), key)
    known = {node.name: node for node in context.nodes}
    alive = frozenset(known)
    fixed, steps = fixed_offsets(len(ring), key), step_offsets(len(ring), key, epoch // 2)
    for index, name in enumerate(ring):
        if name in alive:
            near = targets(ring, alive, index, fixed)
            far = tuple(n for n in targets(ring, alive, index, steps) if n not in near)
            add_sample(
                drafts[name], context, known[name], tuple(known[n] for n in near), tuple(known[n] for n in far), epoch
            )


def _collect(cluster: ClusterState, context: Context, drafts: Mapping[str, Draft], epoch: int) -> ClusterPlan:
    paths: dict[str, Path] = {}
    plans: dict[str, Plan] = {}
    unsampled: list[Unsampled] = []
    relays = _relays(context)
    clients = _clients(relays, cluster)
    for name, draft in drafts.items():
        own = {path.id: path for path in draft.paths}
        paths.update(own)
        unsampled.extend(draft.unsampled)
        plan = Plan(
            digest="",
            vantages=tuple(draft.vantages),
            tasks=tuple(path.task for path in own.values()),
            relays=relays.get(name, ()),
            relay_clients=clients.get(name, ()),
        )
        digest = hashlib.blake2b(_encoder.encode(plan), digest_size=8).hexdigest()
        plans[name] = msgspec.structs.replace(plan, digest=digest)
    names = tuple(node.name for node in context.nodes)
    return ClusterPlan(cluster.revision, epoch, names, paths, plans, tuple(unsampled))


def _relays(context: Context) -> dict[str, tuple[RelayPeer, ...]]:
    """Each node's neighbours: nodes with an address whose agent is there."""
    able = {n.name: n for n in context.nodes if n.addresses and context.answers(n.name)}
    every = {n.name: n for n in context.nodes if n.addresses}
    chosen = relays_of(zones_of(list(every.values())), context.settings.key)
    return {
        name: tuple(RelayPeer(n, able[n].addresses, RELAY_PORT) for n in near if n in able)
        for name, near in chosen.items()
    }


def _clients(relays: Mapping[str, tuple[RelayPeer, ...]], cluster: ClusterState) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for name, peers in relays.items():
        for peer in peers:
            found.setdefault(peer.node, []).extend(cluster.nodes[name].addresses)
    return {node: tuple(sorted(addresses)) for node, addresses in found.items()}
