"""Ranges that addresses are given from: of Services by Kubernetes, of pods by Calico, of load balancers by MetalLB.

Raw objects → typed values, as lenient as `controller.cluster.parse`. Sources: networking.k8s.io/v1 ServiceCIDR,
crd.projectcalico.org/v1 IPPool, metallb.io/v1beta1 IPAddressPool.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network, summarize_address_range
from typing import Any

from controller.cluster.parse import Raw, key_of
from controller.cluster.state import Gives, Pool


def _service_cidr(raw: Raw) -> tuple[Gives, tuple[str, ...]]:
    return Gives.SERVICES, tuple(str(ip_network(cidr)) for cidr in raw["spec"].get("cidrs") or ())


def _calico(raw: Raw) -> tuple[Gives, tuple[str, ...]]:
    """A disabled pool gives none; such pools are also made to say what is not to be masqueraded."""
    spec = raw["spec"]
    uses = spec.get("allowedUses") or ["Workload"]
    gives = Gives.PODS if "Workload" in uses else Gives.BALANCERS if "LoadBalancer" in uses else Gives.NOBODY
    return Gives.NOBODY if spec.get("disabled") else gives, (str(ip_network(spec["cidr"], strict=False)),)


def _metallb(raw: Raw) -> tuple[Gives, tuple[str, ...]]:
    return Gives.BALANCERS, tuple(cidr for text in raw["spec"]["addresses"] for cidr in _range(text))


def _range(text: str) -> tuple[str, ...]:
    """A CIDR, or FIRST-LAST in as few CIDRs as hold just these addresses."""
    first, dash, last = text.partition("-")
    if not dash:
        return (str(ip_network(text.strip(), strict=False)),)
    ends = (ip_address(first.strip()), ip_address(last.strip()))
    match ends:
        case (IPv4Address() as low, IPv4Address() as high):
            return tuple(map(str, summarize_address_range(low, high)))
        case (IPv6Address() as low, IPv6Address() as high):
            return tuple(map(str, summarize_address_range(low, high)))
    raise ValueError(f"{text}: addresses of two families")


def _parse(kind: str, read: Callable[[Raw], tuple[Gives, tuple[str, ...]]], raw: Raw) -> Pool:
    gives, cidrs = read(raw)
    return Pool(kind=kind, name=key_of(raw), gives=gives, cidrs=cidrs)


# Kind → collection path of the API, parser. Not every cluster has them.
POOLS: dict[str, tuple[str, Callable[[Raw], Any]]] = {
    "ServiceCIDR": ("/apis/networking.k8s.io/v1/servicecidrs", partial(_parse, "ServiceCIDR", _service_cidr)),
    "IPPool": ("/apis/crd.projectcalico.org/v1/ippools", partial(_parse, "IPPool", _calico)),
    "IPAddressPool": ("/apis/metallb.io/v1beta1/ipaddresspools", partial(_parse, "IPAddressPool", _metallb)),
}
