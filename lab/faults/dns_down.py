"""Halts DNS servers of the cluster: one, or all."""

from __future__ import annotations

from signal import SIGCONT, SIGSTOP

from lab.client import Object
from lab.fault import Bench, Broken, Expected, Fault, FaultError, Signal
from lab.processes import signal_all

SELECTOR = "k8s-app=kube-dns"


async def _pods(bench: Bench) -> list[Object]:
    pods = await bench.api.list("pods", "kube-system", label_selector=SELECTOR)
    if not pods:
        raise FaultError(f"there is no DNS pod (kube-system, {SELECTOR})")
    return sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))


async def make_one(bench: Bench, on: str) -> Broken:
    """Halt the processes of one replica: its port stays open and says nothing."""
    pods = [p for p in await _pods(bench) if on in {"", f"pod/kube-system/{p['metadata']['name']}"}]
    if not pods:
        raise FaultError(f"{on!r} is no DNS pod: write pod/kube-system/NAME")
    name, space = pods[0]["metadata"]["name"], bench.pod_netns(pods[0])
    signal_all(space, SIGSTOP)
    return Broken(
        code=ONE.code,
        on=f"pod/kube-system/{name}",
        says=f"DNS server kube-system/{name} is halted",
        expected=(Expected(code=ONE.code, kind="Pod", namespace="kube-system", name=name),),
        probe=("pod/shop/frontend", f"pod/kube-system/{name}", "--proto", "dns"),
        undo=(Signal(space, SIGCONT),),
    )


async def make_all(bench: Bench, _on: str) -> Broken:
    """Halt the processes of every replica."""
    spaces = [bench.pod_netns(pod) for pod in await _pods(bench)]
    for space in spaces:
        signal_all(space, SIGSTOP)
    return Broken(
        code=ALL.code,
        on="svc/kube-system/kube-dns",
        says="all DNS servers of the cluster are halted",
        expected=(Expected(code=ALL.code, kind="Service", namespace="kube-system", name="kube-dns"),),
        probe=("pod/shop/frontend", "dns/cart.shop.svc.cluster.local"),
        undo=tuple(Signal(space, SIGCONT) for space in spaces),
    )


ONE = Fault(code="dns.replica_down", title="one DNS server is halted", target="pod/kube-system/NAME", make=make_one)
ALL = Fault(code="dns.all_down", title="all DNS servers are halted", target="", make=make_all)
