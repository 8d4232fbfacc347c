"""Facts of a crowded node, 20,000 rules and 10,000 routes: time, processor and memory, and what it does to probes."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from model.facts import Facts, FactsOrder, Packet
from model.probes import Vantage
from tests.bench import reading

ROOT = Path(__file__).resolve().parents[2]
RULES, ROUTES = 20_000, 10_000
SUBJECTS = ("links", "addresses", "routes", "neighbours", "fdb", "sysctls")
PACKET = Packet(
    family=4, source="10.80.0.9", destination="10.96.19.7", protocol="tcp", destination_port=80, incoming="va"
)


def run() -> list[tuple[str, float, str]]:
    """Figures as name, value, unit. Makes a namespace of its own and takes it away."""
    name = f"krh-{os.getpid()}-bench"
    figures: list[tuple[str, float, str]] = []
    _shell("", f"ip netns add {name}")
    try:
        _shell(name, "ip link set lo up; ip link add va type veth peer name vb; ip addr add 10.80.0.1/16 dev va; "
               "ip link set va up; ip link set vb up; sysctl -qw net.ipv4.ip_forward=1")  # fmt: skip
        _shell(name, "ip -batch -", routes())
        plain = FactsOrder(vantage=Vantage(), subjects=SUBJECTS)
        figures += _measured(name, f"six subjects, {ROUTES} routes", plain)
        for backend in ("legacy", "nft"):
            _shell(name, f"iptables-{backend}-restore", services())
            order = FactsOrder(vantage=Vantage(), walks_asked=(PACKET,), droppers_asked=(PACKET,))
            figures += _measured(name, f"walk and droppers, {RULES} rules of iptables-{backend}", order)
            _shell(name, f"iptables-{backend}-restore", "*filter\nCOMMIT\n*nat\nCOMMIT\n")
        _shell(name, "nft flush ruleset")
        _shell(name, "nft -f -", native())
        order = FactsOrder(vantage=Vantage(), walks_asked=(PACKET,), droppers_asked=(PACKET,))
        figures += _measured(name, f"walk and droppers, {RULES} native rules", order)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, timeout=60)
    walks = FactsOrder(vantage=Vantage(), walks_asked=(PACKET,), droppers_asked=(PACKET,))
    orders = {f"{ROUTES} routes": FactsOrder(vantage=Vantage(), subjects=SUBJECTS), f"{RULES} rules": walks}
    return [*figures, *asyncio.run(reading.measure(_crowd, orders))]


def _crowd(namespace: str) -> None:
    """Fills a node of `tests.agent.bed`, whose uplink is eth0 in 10.9.0.0/24, and lets it forward."""
    _shell(namespace, "ip link add va type veth peer name vb; ip addr add 10.80.0.1/16 dev va; ip link set va up; "
           "ip link set vb up; sysctl -qw net.ipv4.ip_forward=1")  # fmt: skip
    _shell(namespace, "ip -batch -", routes())
    _shell(namespace, "iptables-nft-restore", services())


def routes() -> str:
    """Host routes, as for that many pods."""
    return "\n".join(
        f"route add 10.{100 + at // 65536}.{at // 256 % 256}.{at % 256}/32 via 10.80.0.2" for at in range(ROUTES)
    )


def services() -> str:
    """kube-proxy's rules for 4,000 Services with one endpoint each: five rules a Service."""
    count = RULES // 5
    lines = ["*nat", ":PREROUTING ACCEPT", ":KUBE-SERVICES -", ":KUBE-MARK-MASQ -", "-A PREROUTING -j KUBE-SERVICES"]
    lines += [f":KUBE-{kind}-{at:016d} -" for at in range(count) for kind in ("SVC", "SEP")]
    for at in range(count):
        address, note = f"10.96.{at // 200}.{at % 200}", f'-m comment --comment "ns/service-{at}:http"'
        service, endpoint = f"KUBE-SVC-{at:016d}", f"KUBE-SEP-{at:016d}"
        lines += [
            f"-A KUBE-SERVICES -d {address}/32 -p tcp {note} -m tcp --dport 80 -j {service}",
            f"-A {service} ! -s 10.80.0.0/16 -d {address}/32 -p tcp {note} -m tcp --dport 80 -j KUBE-MARK-MASQ",
            f"-A {service} {note} -j {endpoint}",
            f"-A {endpoint} -s 10.80.1.1/32 {note} -j KUBE-MARK-MASQ",
            f"-A {endpoint} -p tcp {note} -m tcp -j DNAT --to-destination 10.80.{1 + at % 100}.{1 + at // 100}:8080",
        ]
    return "\n".join([*lines, "COMMIT", ""])


def native() -> str:
    """As many native rules in one chain, as an administrator's script might make them."""
    rules = (f"ip daddr 10.97.{at // 250}.{at % 250} tcp dport {at % 60000 + 1} counter accept" for at in range(RULES))
    return "\n".join(["table inet crowd {", "chain f {", "type filter hook forward priority 0;", *rules, "}", "}", ""])


def _measured(namespace: str, name: str, order: FactsOrder) -> list[tuple[str, float, str]]:
    given = msgspec.json.encode(order)
    began = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # The wrapper's only child is the facts process, so that the peak is its own (or that of a program it ran).
    wrapper = (
        "import resource,subprocess,sys;"
        "done=subprocess.run([sys.executable,'-m','agent.host',*sys.argv[1:]],stdin=0);"
        "sys.stderr.write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss));sys.exit(done.returncode)"
    )
    done = subprocess.run(
        [sys.executable, "-c", wrapper, "--netns", f"/run/netns/{namespace}"], input=given, capture_output=True,
        check=True, timeout=120, cwd=ROOT,
    )  # fmt: skip
    took = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = msgspec.json.decode(done.stdout, type=Facts)
    if answer.errors:
        raise RuntimeError(f"facts: {answer.errors}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return [
        (f"facts: {name}, time", took, "s"),
        (f"facts: {name}, processor", used, "s"),
        (f"facts: {name}, peak memory", int(done.stderr) / 1024, "MiB"),
    ]


def _shell(namespace: str, command: str, given: str | None = None) -> None:
    prefix = ["nsenter", f"--net=/run/netns/{namespace}"] if namespace else []
    subprocess.run(
        [*prefix, "bash", "-ec", command], input=given, text=True, check=True, timeout=120, capture_output=True
    )


if __name__ == "__main__":
    for figure in run():
        sys.stdout.write(f"{figure[0]}: {figure[1]:.3f} {figure[2]}\n")
