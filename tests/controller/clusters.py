"""Small clusters as typed values, for tests that need no API."""

from __future__ import annotations

from controller.cluster.state import (
    ClusterState,
    ContainerPort,
    EndpointSlice,
    Namespace,
    Node,
    Pod,
    Service,
    ServicePort,
    SliceEndpoint,
    SlicePort,
)

ENDPOINT = {"app.kubernetes.io/name": "kubereach", "app.kubernetes.io/component": "endpoint"}
LETTERS = "abcdefgh"


def node(index: int, *, zones: int = 2, **more: object) -> Node:
    """node-a, node-b, … as in a lab."""
    zone = index % zones + 1
    given = {
        "ready": True,
        "zone": f"zone-{zone}",
        "addresses": (f"10.77.{zone + index // 200 * 10}.{11 + index % 200}",),
    } | more
    name = f"node-{LETTERS[index]}" if index < len(LETTERS) else f"node-{index:04d}"
    return Node(name=name, uid=f"uid-{name}", **given)  # type: ignore[arg-type]


def pod(namespace: str, name: str, where: str, address: str, **more: object) -> Pod:
    """A running pod."""
    given = {"phase": "Running", "ready": True, "was_ready": True, "labels": {"app": name}} | more
    return Pod(uid=f"uid-{name}", namespace=namespace, name=name, node=where, addresses=(address,), **given)  # type: ignore[arg-type]


def endpoint(index: int, where: str, **more: object) -> Pod:
    """Our own endpoint pod."""
    address = f"10.244.{index // 200}.{index % 200 + 2}"
    return pod("kubereach", f"endpoint-{index}", where, address, labels=ENDPOINT, **more)


def cluster(count: int = 3, **more: object) -> ClusterState:
    """So many nodes, each with an endpoint pod."""
    nodes = [node(i) for i in range(count)]
    pods = [endpoint(i, n.name) for i, n in enumerate(nodes)]
    given = {
        "revision": 1,
        "synced": True,
        "nodes": {n.name: n for n in nodes},
        "pods": {p.uid: p for p in pods},
        "namespaces": {name: Namespace(name=name) for name in ("kubereach", "shop", "kube-system")},
    }
    return ClusterState(**(given | more))  # type: ignore[arg-type]


def with_pods(state: ClusterState, *pods: Pod) -> dict[str, Pod]:
    """The pods of a state, and others."""
    return {**state.pods, **{p.uid: p for p in pods}}


def service(
    name: str, address: str, port: int, target: int, *, namespace: str = "shop", protocol: str = "TCP"
) -> Service:
    """A ClusterIP Service with one port."""
    return Service(
        uid=f"uid-{name}",
        namespace=namespace,
        name=name,
        cluster_ips=(address,),
        ports=(ServicePort(port=port, target_port=target, protocol=protocol),),
        selector={"app": name},
    )


def slice_of(owner: Service, *pods: Pod, ready: bool = True) -> EndpointSlice:
    """The slice of a Service with these pods."""
    port = owner.ports[0]
    return EndpointSlice(
        namespace=owner.namespace,
        name=f"{owner.name}-1",
        service=owner.name,
        ports=(SlicePort(port.name, port.protocol, int(port.target_port)),),
        endpoints=tuple(
            SliceEndpoint(addresses=p.addresses, ready=ready, node=p.node, target_kind="Pod", target_uid=p.uid)
            for p in pods
        ),
    )


HTTP = ContainerPort("http", "TCP", 8080)
