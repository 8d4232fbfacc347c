"""Targets as people write them."""

from __future__ import annotations

import pytest

from cli.targets import Target, TargetError, TargetKind, parse_source, parse_target

ACCEPTED = [
    ("node/node-a", TargetKind.NODE, "node/node-a", 0, 0),
    ("node/ip-10-0-0-1.eu-west.internal", TargetKind.NODE, "node/ip-10-0-0-1.eu-west.internal", 0, 0),
    ("pod/shop/frontend-0", TargetKind.POD, "pod/shop/frontend-0", 0, 0),
    ("shop/frontend-0", TargetKind.POD, "pod/shop/frontend-0", 0, 0),
    ("svc/pay/payments", TargetKind.SERVICE, "svc/pay/payments", 0, 0),
    ("svc/pay/payments:8443", TargetKind.SERVICE, "svc/pay/payments:8443", 8443, 0),
    ("svc/pay/payments:https", TargetKind.SERVICE, "svc/pay/payments:https", 0, 0),
    ("service/pay/payments:1", TargetKind.SERVICE, "svc/pay/payments:1", 1, 0),
    ("10.96.0.10", TargetKind.ADDRESS, "10.96.0.10", 0, 4),
    ("10.96.0.10:65535", TargetKind.ADDRESS, "10.96.0.10:65535", 65535, 4),
    ("fd96::a", TargetKind.ADDRESS, "fd96::a", 0, 6),
    ("FD96:0::A", TargetKind.ADDRESS, "fd96::a", 0, 6),
    ("[fd96::a]", TargetKind.ADDRESS, "fd96::a", 0, 6),
    ("[fd96::a]:53", TargetKind.ADDRESS, "[fd96::a]:53", 53, 6),
    ("dns/kubernetes.default.svc.cluster.local.", TargetKind.NAME, "dns/kubernetes.default.svc.cluster.local.", 0, 0),
    ("dns/_https._tcp.payments.pay", TargetKind.NAME, "dns/_https._tcp.payments.pay", 0, 0),
    ("https://web.outside.test:8443/x?y=1", TargetKind.URL, "https://web.outside.test:8443/x?y=1", 8443, 0),
    ("http://[2001:db8:f::10]/", TargetKind.URL, "http://[2001:db8:f::10]/", 0, 0),
]
REFUSED = [
    ("svc/pay/payments:70000", "port 70000 in 'svc/pay/payments:70000' is out of range"),
    ("10.0.0.1:70000", "port 70000 in '10.0.0.1:70000' is out of range"),
    ("10.0.0.1:0", "port 0 in '10.0.0.1:0' is out of range"),
    ("10.0.0.1:", "no port"),
    ("[fd96::a]:70000", "port 70000"),
    ("[fd96::a]:", "ends before its port"),
    ("[fd96::a", "no address"),
    ("https://example.org:70000/", "Port out of range"),
    ("http://example.org:0/", "out of range"),
    ("10.0.0.300", "malformed IPv4 address"),
    ("10.0.0", "malformed IPv4 address"),
    ("10.0.0.1.5:80", "malformed IPv4 address"),
    ("fd96::g", "malformed IPv6 address"),
    ("fe80::1%eth0", "has a zone"),
    ("10.244.0.0/24", "is a range; name one address, for example 10.244.0.1"),
    ("node-b", "write node/node-b"),
    ("node/", "no node name"),
    ("node/Node_B", "no node name"),
    ("node/a/b", "no node name"),
    ("pod/shop", "wants a namespace and a name"),
    ("pod/shop/", "wants a namespace and a name"),
    ("pod/shop/frontend:80", "--port"),
    ("pod/Shop/frontend", "no namespace"),
    ("svc/pay", "wants a namespace and a name"),
    ("svc/pay/payments:", "no port"),
    ("svc/pay/payments:-1", "no port"),
    ("deployment/shop/frontend", "is no target"),
    ("dns/", "no DNS name"),
    ("dns/a..b", "no DNS name"),
    ("dns/a b", "no DNS name"),
    ("ftp://example.org/", "scheme 'ftp'"),
    ("http:///x", "names no host"),
    ("", "empty target"),
    ("node/" + "a" * 300, "no node name"),
    ("täst", "is no target"),
    ("svc/pay/payments:٤٤", "no port"),
]


@pytest.mark.parametrize(("text", "kind", "said", "port", "family"), ACCEPTED, ids=[row[0] for row in ACCEPTED])
def test_a_target_has_one_spelling(text: str, kind: TargetKind, said: str, port: int, family: int) -> None:
    """Every form of the contract is read, and sent in one spelling."""
    assert parse_target(text) == Target(kind, said, port, family)


@pytest.mark.parametrize(("text", "why"), REFUSED, ids=[row[0][:30] or "empty" for row in REFUSED])
def test_a_malformed_target_is_named(text: str, why: str) -> None:
    """What cannot be a target is refused in one line that holds the input and says what to write."""
    with pytest.raises(TargetError) as refused:
        parse_target(text)
    assert why in str(refused.value)
    assert text[:20] in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["svc/pay/payments", "10.0.0.1", "dns/example.org", "https://example.org/"])
def test_a_probe_starts_from_a_node_or_a_pod(text: str) -> None:
    """There is an agent only where a node or a pod is."""
    with pytest.raises(TargetError, match=r"cannot start from '.*'; name a node"):
        parse_source(text)
