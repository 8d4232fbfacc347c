"""How the expectation is asked and how it answers: references to peers, and a decision. Pure values."""

from __future__ import annotations

from msgspec import Struct


class PodRef(Struct, frozen=True):
    """A pod by name."""

    namespace: str
    name: str


class NodeRef(Struct, frozen=True):
    """A node by name; `addresses` where the model was not given the node."""

    name: str
    addresses: tuple[str, ...] = ()


class AddressRef(Struct, frozen=True):
    """An address. If it is a pod's or a node's, that is meant."""

    address: str


PeerRef = PodRef | NodeRef | AddressRef


class UnknownPeerError(LookupError):
    """The peer is not among what the model was built from."""


class Decision(Struct, frozen=True):
    """What policy says of one connection. `allowed` None is unknown, and `missing` says what is left open.

    `because`: the objects that decided ("NetworkPolicy pay/allow-shop"); `rules`: the same with the rule.
    `direction`: where it is denied or open: ingress, egress or both; empty where it is allowed.
    `missing`: which policy isolates and which peer or port a rule lacks.
    """

    allowed: bool | None
    because: tuple[str, ...] = ()
    missing: str = ""
    direction: str = ""
    rules: tuple[str, ...] = ()
