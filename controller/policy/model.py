"""The expectation: what NetworkPolicy and the admin policies say about every pair of peers. Pure, no I/O.

    model = PolicyModel.build(namespaces, pods, policies, profile, nodes=nodes)
    model.decide(PodRef("shop", "frontend-0"), PodRef("pay", "payments-0"), "TCP", 8443)
    model = model.replace(policies=changed)        # keeps what the change does not touch

What the standard leaves open is None ("unknown"): protocols other than TCP, UDP and SCTP where a policy applies, a pod
to itself where a policy applies, addresses of Services before translation, pods that have ended, admin policies of
equal priority that differ or that the plugin may not implement, names in the DNS, and egress to a pod's own node that
no rule allows (the concept page of NetworkPolicy allows it, the API's own text does not). Services are resolved before
(`services`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from controller.policy.compiled import Applied, build_views, compile_policy
from controller.policy.evaluate import FREE, Judgement, PortJudgement, judge, judge_ports
from controller.policy.explain import Denial, Question, denial_of, rule_text
from controller.policy.objects import Direction, Namespace, Node, Pod, Policy, Profile
from controller.policy.peers import AddressRef, Decision, NodeRef, PeerRef, PodRef, UnknownPeerError
from controller.policy.ports import OFFSETS
from controller.policy.universe import Cuts, Universe, cuts_of

_CACHE_LIMIT = 200_000
_NOBODY = "no policy selects either side"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a peer stands. `node` is the node that it is, or that it runs on."""

    item: int
    is_node: bool = False
    pod: Pod | None = None
    node: str = ""


class PolicyModel:
    """Policies over pods, ready to be asked. Immutable for callers; `replace` gives another."""

    def __init__(self, universe: Universe, inputs: _Inputs, compiled: dict[Policy, _Sides]) -> None:
        """Use `build` or `replace`."""
        self.universe = universe
        self._inputs = inputs
        self._compiled = compiled
        sides = [compiled[policy] for policy in inputs.policies]
        ingress = [entry for side in sides for entry in side[Direction.INGRESS]]
        egress = [entry for side in sides for entry in side[Direction.EGRESS]]
        self.ingress, self.ingress_of = build_views(ingress, universe)
        self.egress, self.egress_of = build_views(egress, universe)
        self._places: dict[PeerRef, _Place] = {}
        self._decisions: dict[tuple[int, int, str, int, int | None], Decision] = {}

    @classmethod
    def build(
        cls,
        namespaces: Iterable[Namespace],
        pods: Iterable[Pod],
        policies: Iterable[Policy],
        profile: Profile | None = None,
        *,
        nodes: Iterable[Node] = (),
        service_addresses: Collection[str] = (),
    ) -> PolicyModel:
        """Make a model. Namespaces that are not given have the label `kubernetes.io/metadata.name` alone."""
        inputs = _Inputs(
            tuple(namespaces),
            tuple(pods),
            tuple(policies),
            profile or Profile(),
            tuple(nodes),
            frozenset(service_addresses),
        )
        return cls._make(inputs, None)

    def replace(
        self,
        *,
        namespaces: Iterable[Namespace] | None = None,
        pods: Iterable[Pod] | None = None,
        policies: Iterable[Policy] | None = None,
        nodes: Iterable[Node] | None = None,
        service_addresses: Collection[str] | None = None,
    ) -> PolicyModel:
        """Give a model with some inputs changed.

        Where only policies change and they tell the same addresses apart, pods stay sorted as they are and only
        changed policies are compiled.
        """
        old = self._inputs
        inputs = _Inputs(
            old.namespaces if namespaces is None else tuple(namespaces),
            old.pods if pods is None else tuple(pods),
            old.policies if policies is None else tuple(policies),
            old.profile,
            old.nodes if nodes is None else tuple(nodes),
            old.service_addresses if service_addresses is None else frozenset(service_addresses),
        )
        same = namespaces is None and pods is None and nodes is None
        return self._make(inputs, self if same else None)

    @classmethod
    def _make(cls, inputs: _Inputs, old: PolicyModel | None) -> PolicyModel:
        cuts: Cuts = cuts_of(inputs.policies)
        if old is not None and old.universe.cuts == cuts:
            universe, known = old.universe, old._compiled
        else:
            universe = Universe(inputs.pods, inputs.namespaces, inputs.nodes, inputs.profile, cuts)
            known = {}
        compiled = {policy: known.get(policy) or compile_policy(policy, universe) for policy in inputs.policies}
        return cls(universe, inputs, compiled)

    @property
    def policies(self) -> tuple[Policy, ...]:
        """The policies of the model."""
        return self._inputs.policies

    @property
    def profile(self) -> Profile:
        """What the network plugin does where it has a choice."""
        return self._inputs.profile

    def decide(
        self, source: PeerRef, destination: PeerRef, protocol: str, port: int, family: int | None = None
    ) -> Decision:
        """Say whether policy lets a connection pass.

        `port` is the destination's (ignored for protocols without); `family` 4 or 6 where both sides have both,
        otherwise IPv4 is preferred.

        Raises:
            UnknownPeerError: a pod that the model does not know, or a node without a known address.

        """
        first, second = self._place(source), self._place(destination)
        open_ = self._left_open(source, destination, first, second, protocol)
        if open_ is not None:
            return open_
        if first.is_node and second.pod is not None and first.node and first.node == second.node:
            return Decision(allowed=True, because=("a node always reaches the pods on it",))
        key = (first.item, second.item, protocol, port, family)
        decision = self._decisions.get(key)
        if decision is None:
            decision = self._decide(first.item, second.item, protocol, port, family)
            if len(self._decisions) >= _CACHE_LIMIT:
                self._decisions.clear()
            self._decisions[key] = decision
        if decision.allowed is False and second.is_node and first.pod is not None and first.node == second.node:
            return self._own_node(decision, first.item, second.item, OFFSETS[protocol] + port, family)
        return decision

    def _own_node(self, decision: Decision, source: int, node: int, code: int, family: int | None) -> Decision:
        view = self.egress[self.egress_of[source]]
        rest = judge(view.without_network(), node, self._mask(source, family), code, ())
        if not view.network or rest.allowed is False:
            return decision
        return Decision(
            allowed=None,
            because=decision.because,
            rules=decision.rules,
            direction=decision.direction,
            missing=f"it is open whether a pod always reaches its own node; if not: {decision.missing}",
        )

    def _decide(self, source: int, destination: int, protocol: str, port: int, family: int | None) -> Decision:
        code = OFFSETS[protocol] + port
        leaving, entering = self._judge(source, destination, code, family)
        verdict = _both(leaving.allowed, entering.allowed)
        sides = ((Direction.EGRESS, leaving), (Direction.INGRESS, entering))
        guilty = sides if verdict else tuple(side for side in sides if side[1].allowed is verdict)
        hits = tuple(dict.fromkeys(hit for _, side in guilty for hit in side.hits))
        because = tuple(dict.fromkeys(hit.policy.label for hit in hits))
        if verdict:
            rules = tuple(dict.fromkeys(rule_text(hit) for hit in hits))
            return Decision(allowed=True, because=because or (_NOBODY,), rules=rules)
        return Decision(
            allowed=verdict,
            because=because,
            rules=tuple(dict.fromkeys(rule_text(hit) for hit in hits)),
            direction=guilty[0][0].value if len(guilty) == 1 else "both",
            missing=self._missing(guilty, source, destination, protocol, port, unknown=verdict is None),
        )

    def denials(
        self, source: PeerRef, destination: PeerRef, protocol: str, port: int, family: int | None = None
    ) -> tuple[Denial, ...]:
        """Say of a connection that `decide` denies which policies deny it, direction by direction; empty otherwise.

        Raises:
            UnknownPeerError: as `decide`.

        """
        if self.decide(source, destination, protocol, port, family).allowed is not False:
            return ()
        first, second = self._place(source).item, self._place(destination).item
        leaving, entering = self._judge(first, second, OFFSETS[protocol] + port, family)
        sides = ((Direction.EGRESS, leaving), (Direction.INGRESS, entering))
        return tuple(
            self._denial(direction, side, first, second, protocol, port)
            for direction, side in sides
            if side.allowed is False
        )

    def _missing(
        self,
        guilty: tuple[tuple[Direction, Judgement], ...],
        source: int,
        destination: int,
        protocol: str,
        port: int,
        *,
        unknown: bool,
    ) -> str:
        texts = []
        for direction, side in guilty:
            if unknown:
                texts.append(self._undecided(direction, side))
            else:
                texts.append(self._denial(direction, side, source, destination, protocol, port).text)
        return "; ".join(texts)

    def _undecided(self, direction: Direction, side: Judgement) -> str:
        if side.doubted:
            policies = [hit.policy for hit in side.hits if hit.policy.kind in self.profile.doubted]
            kinds = " and ".join(dict.fromkeys(policy.kind for policy in policies))
            names = ", ".join(dict.fromkeys(policy.short for policy in policies))
            return f"{direction} depends on whether the network plugin implements {kinds} ({names})"
        names = ", ".join(dict.fromkeys(hit.policy.label for hit in side.hits))
        return f"{direction} depends on which of the rules of {names} applies"

    def _denial(
        self, direction: Direction, side: Judgement, source: int, destination: int, protocol: str, port: int
    ) -> Denial:
        items = self.universe.items
        leaving = direction is Direction.EGRESS
        subject, peer = (source, destination) if leaving else (destination, source)
        question = Question(direction, items[subject], items[peer], self._labels_of(peer), protocol, port)
        return denial_of(question, side.hits)

    def _labels_of(self, item: int) -> dict[str, str]:
        found = self.universe.items[item]
        space = self.universe.namespaces.get(found.namespace)
        return dict(space.labels) if space else {}

    def _judge(self, source: int, destination: int, code: int, family: int | None) -> tuple[Judgement, Judgement]:
        named = self.universe.items[destination].named_ports
        leaving, entering = self.egress[self.egress_of[source]], self.ingress[self.ingress_of[destination]]
        return (
            FREE if leaving.empty else judge(leaving, destination, self._mask(source, family), code, named),
            FREE if entering.empty else judge(entering, source, self._mask(destination, family), code, named),
        )

    def judge_items(self, source: int, destination: int) -> tuple[PortJudgement, PortJudgement]:
        """Give egress and ingress for every port between two items of the universe."""
        named = self.universe.items[destination].named_ports
        leaving, entering = self.egress[self.egress_of[source]], self.ingress[self.ingress_of[destination]]
        return (
            judge_ports(leaving, destination, self._mask(source, None), named),
            judge_ports(entering, source, self._mask(destination, None), named),
        )

    def _mask(self, subject: int, family: int | None) -> int:
        if family is None:
            return 2 if subject in self.universe.second_family_only else 0
        return 1 if family == 4 else 2

    def _left_open(
        self, source: PeerRef, destination: PeerRef, first: _Place, second: _Place, protocol: str
    ) -> Decision | None:
        for ref in (source, destination):
            if isinstance(ref, AddressRef) and ref.address in self._inputs.service_addresses:
                return _open(f"{ref.address} is a Service's address: policies see the pod behind it")
        for place in (first, second):
            if place.pod is not None and place.pod.terminated:
                return _open(f"pod {place.pod.namespace}/{place.pod.name} has ended")
        views = (self.egress[self.egress_of[first.item]], self.ingress[self.ingress_of[second.item]])
        if protocol in OFFSETS and (first.pod is None or first.pod is not second.pod):
            return None
        hits = tuple(entry.policy.label for view in views for entry in view.applied())
        if not hits:
            return Decision(allowed=True, because=(_NOBODY,))
        what = "a pod that reaches itself" if protocol in OFFSETS else f"protocol {protocol}"
        return _open(f"NetworkPolicy leaves {what} to the network plugin", tuple(dict.fromkeys(hits)))

    def _place(self, ref: PeerRef) -> _Place:
        place = self._places.get(ref)
        if place is None:
            place = self._find(ref)
            if len(self._places) < _CACHE_LIMIT:
                self._places[ref] = place
        return place

    def _find(self, ref: PeerRef) -> _Place:
        universe = self.universe
        if isinstance(ref, PodRef):
            key = (ref.namespace, ref.name)
            pod = universe.pods.get(key)
            if pod is None:
                raise UnknownPeerError(f"pod {ref.namespace}/{ref.name} is not known")
            is_node = universe.counts_as_node(pod)
            if pod.terminated:
                return _Place(0, pod=pod)
            item = universe.pod_item[key]
            return _Place(item, is_node, None if is_node else pod, universe.items[item].name if is_node else pod.node)
        if isinstance(ref, NodeRef):
            if ref.name in universe.node_item:
                return _Place(universe.node_item[ref.name], is_node=True, node=ref.name)
            if not ref.addresses:
                raise UnknownPeerError(f"node {ref.name} is not known")
            return _Place(universe.range_item(ref.addresses[0]), is_node=True, node=ref.name)
        pod_key = universe.pod_by_address.get(ref.address)
        if pod_key is not None:
            return self._find(PodRef(*pod_key))
        node = universe.node_by_address.get(ref.address)
        if node is not None:
            return self._find(NodeRef(node))
        return _Place(universe.range_item(ref.address))


@dataclass(frozen=True, slots=True)
class _Inputs:
    namespaces: tuple[Namespace, ...]
    pods: tuple[Pod, ...]
    policies: tuple[Policy, ...]
    profile: Profile
    nodes: tuple[Node, ...]
    service_addresses: frozenset[str]


_Sides = dict[Direction, tuple[Applied, ...]]


def _both(leaving: bool | None, entering: bool | None) -> bool | None:
    if leaving is False or entering is False:
        return False
    return None if leaving is None or entering is None else True


def _open(why: str, because: tuple[str, ...] = ()) -> Decision:
    return Decision(allowed=None, because=because, missing=why)
