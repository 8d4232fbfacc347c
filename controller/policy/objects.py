"""The values that the expectation is computed from: pods, namespaces, nodes, Services and policies.

Pure data, frozen and hashable, so that what is equal can be shared and what was computed can be kept. Nothing here
reads Kubernetes dictionaries (`parse`, `parse_policy`) or decides anything (`model`).
"""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network

from msgspec import Struct

Labels = tuple[tuple[str, str], ...]
Network = IPv4Network | IPv6Network
NAME_LABEL = "kubernetes.io/metadata.name"
PROTOCOLS = ("TCP", "UDP", "SCTP")


class ObjectError(ValueError):
    """An object that Kubernetes would refuse; says which object, which field and what is wrong with it."""

    def __init__(self, owner: str, path: tuple[str | int, ...], problem: str) -> None:
        """Take the object ("NetworkPolicy pay/allow-shop"), the path of the field in it, and the problem."""
        super().__init__(f"{owner}: {field_text(path)}: {problem}" if path else f"{owner}: {problem}")
        self.owner = owner
        self.path = path
        self.problem = problem


def field_text(path: tuple[str | int, ...]) -> str:
    """Write a path as users write it: `spec.ingress[0].from[1].ipBlock.cidr`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


class Operator(StrEnum):
    """Operators of a label selector."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class Requirement(Struct, frozen=True):
    """One condition on labels; `matchLabels` entries become `In` with one value."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()


class Selector(Struct, frozen=True):
    """Conditions that all must hold; none at all selects everything."""

    requirements: tuple[Requirement, ...] = ()


class NamedPort(Struct, frozen=True):
    """A container port with a name, as policies and Services resolve it."""

    name: str
    protocol: str
    port: int


class Owner(Struct, frozen=True):
    """The workload that a pod belongs to."""

    kind: str
    name: str


class Pod(Struct, frozen=True):
    """What policies can see of a pod. `addresses` begin with the primary one."""

    namespace: str
    name: str
    labels: Labels = ()
    addresses: tuple[str, ...] = ()
    named_ports: tuple[NamedPort, ...] = ()
    node: str = ""
    node_addresses: tuple[str, ...] = ()
    host_network: bool = False
    terminated: bool = False
    owner: Owner | None = None


class Namespace(Struct, frozen=True):
    """A namespace; its labels hold `kubernetes.io/metadata.name` even where the object lacks it."""

    name: str
    labels: Labels = ()


class Node(Struct, frozen=True):
    """A node: labels for `nodes` peers, addresses for blocks of addresses."""

    name: str
    labels: Labels = ()
    addresses: tuple[str, ...] = ()


class ServicePort(Struct, frozen=True):
    """A port of a Service; `target` is a number or the name of a container port."""

    name: str
    protocol: str
    port: int
    target: int | str


class Service(Struct, frozen=True):
    """A Service; without a selector its endpoints are not known from manifests."""

    namespace: str
    name: str
    selector: Labels = ()
    ports: tuple[ServicePort, ...] = ()
    addresses: tuple[str, ...] = ()


class Direction(StrEnum):
    """Seen from the pod that a policy selects."""

    INGRESS = "ingress"
    EGRESS = "egress"


class Tier(StrEnum):
    """Order of evaluation: admin, then NetworkPolicy, then baseline, then "allowed"."""

    ADMIN = "admin"
    NETWORK_POLICY = "NetworkPolicy"
    BASELINE = "baseline"


class Action(StrEnum):
    """What a matching rule does. Rules of NetworkPolicy only allow."""

    ALLOW = "Allow"
    DENY = "Deny"
    PASS = "Pass"


class PortRule(Struct, frozen=True):
    """Ports that a rule matches at the destination.

    `name` set: the ports that the destination pod gives that name. Otherwise `first` to `last`. `protocol` None:
    whatever the destination pod declares (only with a name).
    """

    protocol: str | None
    first: int = 1
    last: int = 65535
    name: str | None = None


class PodsPeer(Struct, frozen=True):
    """Pods by namespace and labels.

    `namespace` set: that namespace alone. `same_labels`, `not_same_labels` (AdminNetworkPolicy up to v0.1.1):
    relative to the labels of the subject's namespace.
    """

    namespaces: Selector = Selector()
    pods: Selector = Selector()
    namespace: str | None = None
    same_labels: tuple[str, ...] = ()
    not_same_labels: tuple[str, ...] = ()


class BlockPeer(Struct, frozen=True):
    """Addresses of `cidr`, without those in `exceptions`."""

    cidr: Network
    exceptions: tuple[Network, ...] = ()


class NodesPeer(Struct, frozen=True):
    """Nodes by label (`nodes` of the admin policies)."""

    selector: Selector


class DomainsPeer(Struct, frozen=True):
    """Names in the DNS; which addresses they stand for is not known here."""

    names: tuple[str, ...]


Peer = PodsPeer | BlockPeer | NodesPeer | DomainsPeer


class Rule(Struct, frozen=True):
    """Peers and ports; `peers` None is everybody, `ports` None is every port of every protocol."""

    peers: tuple[Peer, ...] | None
    ports: tuple[PortRule, ...] | None
    action: Action
    where: str
    name: str = ""


class Policy(Struct, frozen=True):
    """A policy of any of the four kinds.

    `ingress`, `egress` None: the policy does not concern that direction. For a NetworkPolicy an empty tuple isolates
    and allows nothing; for the others it does nothing. `namespace` is empty for cluster-wide kinds.
    """

    kind: str
    name: str
    tier: Tier
    subject: PodsPeer
    namespace: str = ""
    priority: int = 0
    ingress: tuple[Rule, ...] | None = None
    egress: tuple[Rule, ...] | None = None

    @property
    def label(self) -> str:
        """The policy as reasons name it: "NetworkPolicy pay/allow-shop"."""
        return f"{self.kind} {self.short}"

    @property
    def short(self) -> str:
        """Namespace and name alone."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Profile(Struct, frozen=True):
    """What the network plugin does where the standard leaves it a choice.

    `ip_blocks_select_pods`: `ipBlock` and `networks` match addresses of pods. `host_network_as_pods`: the plugin
    tells traffic of host-network pods apart, so that policies select them; otherwise they count as their node.
    `doubted`: kinds of policy of which it is not known whether the plugin implements them; it does all of a kind or
    nothing of any of these. Every plugin implements NetworkPolicy.
    """

    ip_blocks_select_pods: bool = True
    host_network_as_pods: bool = False
    doubted: frozenset[str] = frozenset()
