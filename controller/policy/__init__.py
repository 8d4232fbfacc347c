"""The expectation: what NetworkPolicy, admin policies and Services say should pass.

Pure: it reads values and gives values. It neither watches a cluster nor reads files, and knows nothing of what was
measured. Order of work: `parse`, `parse_policy` → `objects` → `universe` → `compiled` → `evaluate` → `model`,
`relation`.
"""

from controller.policy.explain import Denial
from controller.policy.model import PolicyModel
from controller.policy.objects import Namespace, Node, ObjectError, Pod, Policy, Profile, Service
from controller.policy.parse import make_namespace, parse_namespace, parse_node, parse_pod, parse_service
from controller.policy.parse_policy import POLICY_KINDS, parse_policy
from controller.policy.peers import AddressRef, Decision, NodeRef, PeerRef, PodRef, UnknownPeerError
from controller.policy.relation import Block, PeerName, RangeName, Relation, Row, TooManyPeersError, blocks, relation
from controller.policy.services import Backend, resolve_service
from controller.policy.workloads import expand_workload

__all__ = [
    "POLICY_KINDS",
    "AddressRef",
    "Backend",
    "Block",
    "Decision",
    "Denial",
    "Namespace",
    "Node",
    "NodeRef",
    "ObjectError",
    "PeerName",
    "PeerRef",
    "Pod",
    "PodRef",
    "Policy",
    "PolicyModel",
    "Profile",
    "RangeName",
    "Relation",
    "Row",
    "Service",
    "TooManyPeersError",
    "UnknownPeerError",
    "blocks",
    "expand_workload",
    "make_namespace",
    "parse_namespace",
    "parse_node",
    "parse_pod",
    "parse_policy",
    "parse_service",
    "relation",
    "resolve_service",
]
