"""Pools of addresses, as Kubernetes, Calico and MetalLB write them; and a controller that may not see them."""

from __future__ import annotations

from typing import Any

import pytest

from controller.cluster.pools import POOLS
from controller.cluster.state import Gives, Pool
from controller.cluster.store import ClusterStore
from controller.options import parse
from tests.controller.running import ADDRESS_POOLS, DEFINITIONS, created, define, eventually
from tests.controller.test_watch import watching
from tests.lab.embedded.apiserver_process import Server

READ: dict[str, tuple[str, dict[str, Any], Gives, tuple[str, ...]]] = {
    "Services of two families": (
        "ServiceCIDR", {"cidrs": ["10.96.0.0/16", "fd96::/112"]}, Gives.SERVICES, ("10.96.0.0/16", "fd96::/112")
    ),
    "pods": ("IPPool", {"cidr": "10.244.0.0/16", "blockSize": 26}, Gives.PODS, ("10.244.0.0/16",)),
    "pods and tunnels": (
        "IPPool", {"cidr": "fd44::/48", "allowedUses": ["Workload", "Tunnel"]}, Gives.PODS, ("fd44::/48",)
    ),
    "tunnels alone": ("IPPool", {"cidr": "10.9.0.0/24", "allowedUses": ["Tunnel"]}, Gives.NOBODY, ("10.9.0.0/24",)),
    "load balancers": (
        "IPPool", {"cidr": "10.9.0.0/24", "allowedUses": ["LoadBalancer"]}, Gives.BALANCERS, ("10.9.0.0/24",)
    ),
    "disabled": ("IPPool", {"cidr": "10.0.0.0/8", "disabled": True}, Gives.NOBODY, ("10.0.0.0/8",)),
    "MetalLB's CIDR": ("IPAddressPool", {"addresses": ["10.77.1.192/26"]}, Gives.BALANCERS, ("10.77.1.192/26",)),
    "MetalLB's range": (
        "IPAddressPool", {"addresses": ["10.77.1.9 - 10.77.1.12", "fd77::1-fd77::1"]}, Gives.BALANCERS,
        ("10.77.1.9/32", "10.77.1.10/31", "10.77.1.12/32", "fd77::1/128"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_a_pool_says_what_it_gives_and_to_whom(name: str) -> None:
    """Ranges in canonical form; a disabled pool gives nothing."""
    kind, spec, gives, cidrs = READ[name]
    assert POOLS[kind][1]({"metadata": {"name": "one"}, "spec": spec}) == Pool(
        kind=kind, name="one", gives=gives, cidrs=cidrs
    )


@pytest.mark.parametrize("text", ["10.0.0.9-fd77::1", "10.0.0.9-10.0.0.1", "everything"])
def test_a_range_that_is_none_is_left_out_and_counted(text: str) -> None:
    """One odd object does not hide the others."""
    store = ClusterStore()
    odd = {"metadata": {"name": "odd"}, "spec": {"addresses": [text]}}
    store.replace("IPAddressPool", [odd, {"metadata": {"name": "fine"}, "spec": {"addresses": ["10.9.0.0/24"]}}])
    assert (store.unreadable, list(store.snapshot().pools)) == (1, ["IPAddressPool/fine"])


def test_a_range_that_was_told_gives_way_to_the_api() -> None:
    """What somebody wrote into an option holds only where the API says nothing of that sort."""
    told = Pool(kind="--service-cidr", name="10.9.0.0/16", gives=Gives.SERVICES, cidrs=("10.9.0.0/16",))
    store = ClusterStore((told,))
    store.replace("IPPool", [{"metadata": {"name": "p"}, "spec": {"cidr": "10.244.0.0/16"}}])
    assert set(store.snapshot().pools) == {"--service-cidr/10.9.0.0/16", "IPPool/p"}
    store.replace("ServiceCIDR", [{"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16"]}}])
    assert set(store.snapshot().pools) == {"ServiceCIDR/kubernetes", "IPPool/p"}


def test_ranges_can_be_told_by_option() -> None:
    """For clusters whose API has no object that says so."""
    argv = ["--listen=none", "--cluster-cidr=10.244.0.0/16", "--service-cidr=10.96.0.0/16", "--service-cidr=fd96::/112"]
    assert [(one.kind, one.gives, one.cidrs) for one in parse(argv).pools] == [
        ("--cluster-cidr", Gives.PODS, ("10.244.0.0/16",)),
        ("--service-cidr", Gives.SERVICES, ("10.96.0.0/16",)),
        ("--service-cidr", Gives.SERVICES, ("fd96::/112",)),
    ]


async def test_pools_are_watched_once_their_kinds_are_installed(api: Server) -> None:
    """Kubernetes' own from the start; others as they come and go."""
    async with watching(api.kubeconfig(), absent_s=0.1) as watch:
        await eventually(lambda: set(watch.snapshot().pools) == {"ServiceCIDR/kubernetes"}, "the cluster's own")
        define(api, ADDRESS_POOLS)
        path = "/apis/crd.projectcalico.org/v1/ippools"
        created(api, path, {"metadata": {"name": "pods"}, "spec": {"cidr": "10.244.0.0/16"}})
        created(api, "/api/v1/namespaces", {"metadata": {"name": "metallb-system"}})
        path = "/apis/metallb.io/v1beta1/namespaces/metallb-system/ipaddresspools"
        created(api, path, {"metadata": {"name": "lan"}, "spec": {"addresses": ["10.77.1.192/26"]}})
        wanted = {"ServiceCIDR/kubernetes", "IPPool/pods", "IPAddressPool/metallb-system/lan"}
        await eventually(lambda: set(watch.snapshot().pools) == wanted, "both")
        for group, plural, *_ in ADDRESS_POOLS:
            assert api.call("DELETE", f"{DEFINITIONS}/{plural}.{group}")[0] == 200
        await eventually(lambda: set(watch.snapshot().pools) == {"ServiceCIDR/kubernetes"}, "gone with their kinds")
        assert watch.errors == {}
