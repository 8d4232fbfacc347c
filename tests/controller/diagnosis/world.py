"""A small healthy cluster as values: three nodes with flannel's shape, one pod each, to be broken by one change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from controller.cluster.state import (
    ClusterState,
    ContainerPort,
    EndpointSlice,
    Node,
    Pod,
    Service,
    ServicePort,
    SliceEndpoint,
    SlicePort,
    Workload,
)
from controller.diagnosis.case import Case, Flow, Place
from controller.diagnosis.flows import vantage_of
from controller.diagnosis.trace import Trace
from controller.matrix.paths import PathStatus
from controller.plan.paths import Path
from model.diagnosis import Expectation
from model.facts import Address, Facts, FdbEntry, Link, Neighbour, Route, Socket, Vxlan
from model.probes import Attempt, ProbeResult, Task, Vantage
from model.trace import Seen, Traced
from model.words import CellState, MatrixKind, Method, Network, Outcome

NODES = ("node-a", "node-b", "node-c")


def number(node: str) -> int:
    """Position of a node, from 1."""
    return NODES.index(node) + 1


def node_address(node: str) -> str:
    """The address of a node."""
    return f"10.77.1.{10 + number(node)}"


def pod_cidr(node: str) -> str:
    """The pod CIDR of a node."""
    return f"10.244.{number(node)}.0/24"


def pod_on(node: str, name: str = "web", host: int = 2) -> Pod:
    """A running pod on a node, which declares TCP 8080."""
    return Pod(
        uid=f"{name}-{node}",
        namespace="shop",
        name=f"{name}-{node}",
        node=node,
        addresses=(f"10.244.{number(node)}.{host}",),
        phase="Running",
        ready=True,
        labels={"app": name},
        container_ports=(ContainerPort("http", "TCP", 8080),),
    )


SERVICE = Service(
    uid="svc-web",
    namespace="shop",
    name="web",
    cluster_ips=("10.96.3.7",),
    ports=(ServicePort(name="http", port=80, target_port=8080),),
    selector={"app": "web"},
)
DNS = Service(
    uid="svc-dns",
    namespace="kube-system",
    name="kube-dns",
    cluster_ips=("10.96.0.10",),
    ports=(ServicePort(name="dns", protocol="UDP", port=53, target_port=53),),
    selector={"k8s-app": "kube-dns"},
)


def dns_pod(node: str) -> Pod:
    """A DNS server on a node."""
    return replace_struct(pod_on(node, "dns", 9), namespace="kube-system", labels={"k8s-app": "kube-dns"})


def replace_struct(value: Pod, **changes: object) -> Pod:
    """A pod with some fields changed."""
    import msgspec

    return msgspec.structs.replace(value, **changes)


def endpoints(service: Service, port: int, pods: tuple[Pod, ...]) -> EndpointSlice:
    """The EndpointSlice of a Service with these pods behind."""
    return EndpointSlice(
        namespace=service.namespace,
        name=f"{service.name}-1",
        service=service.name,
        ports=tuple(SlicePort(p.name, p.protocol, port) for p in service.ports),
        endpoints=tuple(
            SliceEndpoint(
                addresses=p.addresses,
                node=p.node,
                target_kind="Pod",
                target_uid=p.uid,
                target_namespace=p.namespace,
                target_name=p.name,
            )
            for p in pods
        ),
    )


def cluster(**changes: object) -> ClusterState:
    """The healthy cluster, with some of its fields changed."""
    web = tuple(pod_on(n) for n in NODES)
    dns = (dns_pod("node-a"), dns_pod("node-b"))
    state = ClusterState(
        revision=1,
        synced=True,
        nodes={
            n: Node(name=n, addresses=(node_address(n),), pod_cidrs=(pod_cidr(n),), zone=f"zone-{1 + number(n) % 2}")
            for n in NODES
        },
        pods={p.uid: p for p in (*web, *dns)},
        services={s.key: s for s in (SERVICE, DNS)},
        slices={"shop/web-1": endpoints(SERVICE, 8080, web), "kube-system/kube-dns-1": endpoints(DNS, 53, dns)},
        workloads={
            "Deployment/shop/web": Workload(
                kind="Deployment", namespace="shop", name="web", replicas=3, template_labels={"app": "web"}
            )
        },
    )
    return replace(state, **changes)  # type: ignore[arg-type]


def healthy_facts(node: str) -> Facts:
    """What a healthy host says: uplink, bridge, VXLAN device with an entry for each peer, routes, forwarding on."""
    peers = [n for n in NODES if n != node]
    return Facts(
        links=(
            Link(index=2, name="eth0", kind="veth", up=True, carrier=True, operstate="UP", mtu=1500),
            Link(index=3, name="cni0", kind="bridge", up=True, carrier=True, operstate="UP", mtu=1450),
            Link(
                index=4,
                name="flannel.1",
                kind="vxlan",
                up=True,
                carrier=True,
                mtu=1450,
                mac=mac(node),
                vxlan=Vxlan(vni=1, port=8472, local=node_address(node)),
            ),
        ),
        addresses=(
            Address(device="eth0", address=node_address(node), prefix_length=24, family=4),
            Address(device="cni0", address=f"10.244.{number(node)}.1", prefix_length=24, family=4),
        ),
        routes=(
            Route(family=4, destination="0.0.0.0/0", gateway="10.77.1.1", device="eth0"),
            Route(family=4, destination=pod_cidr(node), device="cni0", scope="link"),
            *(
                Route(family=4, destination=pod_cidr(p), gateway=gateway(p), device="flannel.1", onlink=True)
                for p in peers
            ),
        ),
        neighbours=tuple(
            Neighbour(family=4, address=gateway(p), device="flannel.1", mac=mac(p), state="permanent") for p in peers
        ),
        fdb=tuple(
            FdbEntry(mac=mac(p), device="flannel.1", destination=node_address(p), state="permanent") for p in peers
        ),
        sysctls={
            "net.ipv4.ip_forward": "1",
            "net.ipv4.conf.cni0.forwarding": "1",
            "net.ipv4.conf.eth0.forwarding": "1",
        },
        route_answers=(),
        droppers=(),
        walks=(),
    )


def mac(node: str) -> str:
    """The MAC of a node's VXLAN device."""
    return f"02:00:00:00:00:0{number(node)}"


def gateway(node: str) -> str:
    """The address of a node's VXLAN device."""
    return f"10.244.{number(node)}.0"


def place(pod: Pod) -> Place:
    """A pod as an end of a flow."""
    return Place(address=pod.addresses[0], node=pod.node, vantage=vantage_of(pod), pod=pod)


def host(node: str) -> Place:
    """A node as an end of a flow."""
    return Place(address=node_address(node), node=node)


def pod_flow(method: Method = Method.UDP, port: int = 8700) -> Flow:
    """From the pod on node-a to that on node-b."""
    return Flow(source=place(pod_on("node-a")), destination=place(pod_on("node-b")), method=method, family=4, port=port)


def host_flow(method: Method = Method.UDP, port: int = 8701) -> Flow:
    """From host node-a to host node-b."""
    return Flow(source=host("node-a"), destination=host("node-b"), method=method, family=4, port=port)


def failed(outcome: Outcome = Outcome.TIMEOUT, count: int = 5) -> ProbeResult:
    """A burst of which every probe had this outcome."""
    return ProbeResult(attempts=tuple(Attempt(outcome=outcome) for _ in range(count)))


def statuses(
    failing: frozenset[tuple[str, str, MatrixKind]] = frozenset(),
) -> tuple[dict[str, Path], dict[str, PathStatus]]:
    """Every host and pod path between the nodes, those in `failing` failing, the rest ok."""
    paths: dict[str, Path] = {}
    found: dict[str, PathStatus] = {}
    for kind, network in ((MatrixKind.HOST, Network.HOST), (MatrixKind.POD, Network.POD)):
        for source in NODES:
            for target in NODES:
                if source == target:
                    continue
                task = Task(
                    id=f"{kind}-{source}-{target}",
                    vantage=0,
                    method=Method.UDP,
                    family=4,
                    address=node_address(target),
                    port=8701,
                )
                path = Path(
                    kind=kind,
                    source_node=source,
                    vantage=Vantage(),
                    destination=target,
                    destination_nodes=frozenset({target}),
                    network=network,
                    target_kind="Node",
                    target_name=target,
                    expected=Expectation(allowed=True),
                    task=task,
                )
                state = CellState.FAILING if (source, target, kind) in failing else CellState.OK
                since = 100.0
                paths[path.id] = path
                found[path.id] = PathStatus(
                    path=path,
                    state=state,
                    since=since,
                    last_at=since + 5.0,
                    first_failure_at=since if state is CellState.FAILING else None,
                )
    return paths, found


def case(
    flow: Flow,
    facts: Mapping[str, Facts] | None = None,
    failing: frozenset[tuple[str, str, MatrixKind]] = frozenset(),
    state: ClusterState | None = None,
    **changes: object,
) -> Case:
    """A case with healthy facts of both hosts, some replaced."""
    paths, found = statuses(failing)
    known = {(n, ""): healthy_facts(n) for n in flow.nodes}
    known.update({(n, ""): f for n, f in (facts or {}).items()})
    return replace(
        Case(
            flow=flow,
            cluster=state or cluster(),
            paths=paths,
            statuses=found,
            facts=known,
            uplinks=dict.fromkeys(NODES, "eth0"),
        ),
        **changes,  # type: ignore[arg-type]
    )


def seen(device: str, direction: str, packets: int, *, reply: bool = False, outer: str = "") -> Seen:
    """Packets of a burst at a device of a host."""
    way = "reply" if reply else "request"
    numbers = f"{((1 << packets) - 1) << 1:x}"
    return Seen(
        vantage=0, device=device, direction=direction, way=way, source="", destination="", outer=outer,
        numbers=numbers, packets=packets,
    )  # fmt: skip


def traced(flow: Flow, told: dict[str, tuple[Seen, ...]], sent: int = 5) -> Trace:
    """A trace of which the hosts saw this."""
    watched = {node: (Vantage(),) for node in told}
    return Trace(flow, sent, watched, {n: Traced(seen=s, sent=sent if n == "node-a" else 0) for n, s in told.items()})


def listens(*ports: int, address: str = "0.0.0.0") -> Facts:
    """A pod's namespace with TCP sockets on these ports."""
    return Facts(sockets=tuple(Socket(protocol="tcp", family=4, address=address, port=p) for p in ports))
