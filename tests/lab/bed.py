"""A test bed of namespaces for the tests of rules: one node, three pods, one host outside; no Kubernetes.

    outside ── node ── web-0, web-1 (shop), visitor (other)

Every pod and the outside host answer with their name on TCP and UDP ports 8080 and 8081, in both families.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from lab import netns
from lab.policy.calico import device
from lab.policy.objects import read_pods

Object = dict[str, Any]

PODS = (("shop", "web-0"), ("shop", "web-1"), ("other", "visitor"))
PORTS = (8080, 8081)
PATIENCE_S = 0.5
RULES_DIR = Path(__file__).resolve().parents[2] / "lab" / "embedded" / "cni"


def pod_address(index: int, family: int) -> str:
    """The address of a pod by its place in PODS."""
    return f"10.244.1.{index + 2}" if family == 4 else f"fd44:0:0:1::{index + 2}"


NODE = {4: "10.77.1.11", 6: "fd77:1::11"}
OUTSIDE = {4: "10.77.1.99", 6: "fd77:1::99"}


def pod_objects() -> list[Object]:
    """The pods as the API shows them."""
    return [
        {
            "metadata": {"namespace": namespace, "name": name, "labels": {"app": name.split("-")[0], "name": name}},
            "spec": {
                "nodeName": "node-a",
                "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}],
            },
            "status": {"phase": "Running", "podIPs": [{"ip": pod_address(index, family)} for family in (4, 6)]},
        }
        for index, (namespace, name) in enumerate(PODS)
    ]


def namespace_objects() -> list[Object]:
    """Their namespaces."""
    return [{"metadata": {"name": name, "labels": {"team": name}}} for name in ("shop", "other")]


class Bed:
    """Names of the bed's namespaces, and questions to ask in it."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.node = f"{prefix}-node"
        self.outside = f"{prefix}-outside"

    def place(self, name: str) -> str:
        """The namespace of a pod, of the node or of the outside host."""
        return f"{self.prefix}-{name}"

    def address(self, name: str, family: int) -> str:
        """The address of any of them."""
        if name in ("node", "outside"):
            return (NODE if name == "node" else OUTSIDE)[family]
        return pod_address([pod for _, pod in PODS].index(name), family)

    async def ask(self, source: str, address: str, port: int, protocol: str = "tcp") -> str:
        """Who answers: a name, or "refused" or "silent"."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        loop = asyncio.get_running_loop()
        with netns.socket_in(self.place(source), family, kind) as link:
            link.setblocking(False)
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await loop.sock_connect(link, (address, port))
                    await loop.sock_sendall(link, b"?")
                    return (await loop.sock_recv(link, 100)).decode()
            except TimeoutError:
                return "silent"
            except OSError:
                return "refused"

    async def ask_all(self, source: str, address: str, port: int, protocol: str = "tcp", times: int = 40) -> set[str]:
        """All who answer when asked often: of two, one is missed by chance once in 10^11 times."""
        answers = [self.ask(source, address, port, protocol) for _ in range(times)]
        return set(await asyncio.gather(*answers))


def _ip(name: str, lines: Iterable[str]) -> None:
    netns.run_sync(None, ["ip", "-n", name, "-batch", "-"], "".join(f"{line}\n" for line in lines))


def _build_node(bed: Bed, shape: str) -> None:
    for name in ("node", "outside", *(pod for _, pod in PODS)):
        netns.create(bed.place(name))
        _ip(bed.place(name), ["link set lo up"])
    forwarding = {"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1"}
    netns.sysctl_set(bed.node, forwarding)
    _ip(
        bed.node,
        [
            f"link add eth0 type veth peer name eth0 netns {bed.outside}",
            "link set eth0 up",
            f"address add {NODE[4]}/24 dev eth0",
            f"address add {NODE[6]}/64 dev eth0 nodad",
        ],
    )
    _ip(
        bed.outside,
        [
            "link set eth0 up",
            f"address add {OUTSIDE[4]}/24 dev eth0",
            f"address add {OUTSIDE[6]}/64 dev eth0 nodad",
            f"route add default via {NODE[4]}",
            f"route add default via {NODE[6]}",
        ],
    )
    _ip(bed.node, [f"route add default via {OUTSIDE[4]}", f"route add default via {OUTSIDE[6]}"])
    (_build_bridge if shape == "bridge" else _build_routed)(bed)


def _build_bridge(bed: Bed) -> None:
    lines = [
        "link add cni0 type bridge",
        "link set cni0 up",
        "address add 10.244.1.1/24 dev cni0",
        "address add fd44:0:0:1::1/64 dev cni0 nodad",
    ]
    for index, (_, pod) in enumerate(PODS):
        lines += [
            f"link add veth{index} type veth peer name eth0 netns {bed.place(pod)}",
            f"link set veth{index} master cni0",
            f"link set veth{index} type bridge_slave hairpin on",
            f"link set veth{index} up",
        ]
    _ip(bed.node, lines)
    netns.sysctl_set(bed.node, {"bridge/bridge-nf-call-iptables": "1", "bridge/bridge-nf-call-ip6tables": "1"})
    for index, (_, pod) in enumerate(PODS):
        _ip(
            bed.place(pod),
            [
                "link set eth0 up",
                f"address add {pod_address(index, 4)}/24 dev eth0",
                f"address add {pod_address(index, 6)}/64 dev eth0 nodad",
                "route add default via 10.244.1.1",
                "route add default via fd44:0:0:1::1",
            ],
        )


def _build_routed(bed: Bed) -> None:
    devices = {pod.name: device(pod) for pod in read_pods(pod_objects(), [])}
    for index, (_, pod) in enumerate(PODS):
        name = devices[pod]
        _ip(
            bed.node,
            [
                f"link add {name} address ee:ee:ee:ee:ee:ee type veth peer name eth0 netns {bed.place(pod)}",
                f"link set {name} up",
                f"route add {pod_address(index, 4)}/32 dev {name}",
                f"route add {pod_address(index, 6)}/128 dev {name}",
                f"address add fe80::1/64 dev {name} nodad",
            ],
        )
        netns.sysctl_set(bed.node, {f"ipv4/conf/{name}/proxy_arp": "1"})
        _ip(
            bed.place(pod),
            [
                "link set eth0 up",
                f"address add {pod_address(index, 4)}/32 dev eth0",
                f"address add {pod_address(index, 6)}/128 dev eth0 nodad",
                "route add 169.254.1.1 dev eth0",
                "route add default via 169.254.1.1 dev eth0",
                "neighbour add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0",
                "route add default via fe80::1 dev eth0",
            ],
        )
    for family, program in ((4, "iptables-nft-restore"), (6, "ip6tables-nft-restore")):
        text = (RULES_DIR / f"calico.rules{family}").read_text()
        kind = "inet6" if family == 6 else "inet"
        names = ("all-vxlan-net", "this-host", "network-ip-pools", "masq-ipam-pools", "dscp-src-net")
        sets = "".join(f"create cali{family}0{name} hash:net family {kind}\n" for name in names)
        netns.run_sync(bed.node, ["ipset", "restore"], sets)
        netns.run_sync(bed.node, [program, "--noflush"], text)


class _Answer(asyncio.DatagramProtocol):
    def __init__(self, name: str) -> None:
        self._name = name.encode()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio's own transport of datagrams does not derive from the class that its documents name
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:  # noqa: ARG002 - asyncio's signature
        self._transport.sendto(self._name, addr)


async def _serve(bed: Bed, name: str, stack: contextlib.AsyncExitStack) -> None:
    loop = asyncio.get_running_loop()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read(1)
            writer.write(name.encode())
            await writer.drain()
        writer.close()

    for port in PORTS:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            # For UDP one socket a family: a dual socket would answer IPv4 from a chosen address all the same.
            link = netns.socket_in(bed.place(name), socket.AF_INET6, kind)
            link.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            link.setblocking(False)
            link.bind(("::", port))
            if kind == socket.SOCK_STREAM:
                link.listen(64)
                server = await asyncio.start_server(answer, sock=link)
                stack.callback(server.close)
            else:
                transport, _ = await loop.create_datagram_endpoint(lambda: _Answer(name), sock=link)
                stack.callback(transport.close)


@asynccontextmanager
async def make_bed(shape: str) -> AsyncIterator[Bed]:
    """Build a bed, "bridge" as flannel's or "routed" as Calico's with its base chains, and take it away."""
    bed = Bed(f"kbed{os.getpid()}{shape[0]}")
    names = ("node", "outside", *(pod for _, pod in PODS))
    async with contextlib.AsyncExitStack() as stack:
        for name in names:
            stack.callback(netns.delete, bed.place(name))
        _build_node(bed, shape)
        for name in names:
            await _serve(bed, name, stack)
        await _settled(bed)
        yield bed


async def _settled(bed: Bed) -> None:
    """Wait until all links answer, before there is any rule."""
    async with asyncio.timeout(10):
        for family in (4, 6):
            for source in ("outside", *(pod for _, pod in PODS)):
                for target in ("node", *(pod for _, pod in PODS)):
                    while await bed.ask(source, bed.address(target, family), 8080) != target:
                        await asyncio.sleep(0.05)
