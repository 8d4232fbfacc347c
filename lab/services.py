"""The processes of a lab as data: what is started, where, with which arguments and files.

Pure but for `prepare`, which issues certificates and tokens' files. The supervisor starts what stands here.
"""

from __future__ import annotations

import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from lab import pki
from lab.spec import API_PORT, NodeSpec, Topology

CONTROLLER_PORT: Final = 8703
CONTROLLER_PLAIN_PORT: Final = 8704
RELAY_PORT: Final = 8702
TOKEN_AUDIENCE: Final = "kubereach"
NAMESPACE: Final = "kubereach"
ADMIN: Final = "lab-admin"


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """One process that is kept running."""

    name: str
    argv: tuple[str, ...]
    netns: str | None
    """The namespace it runs in; None: the machine's own."""
    enter: tuple[str, ...] = ()
    """Options of nsenter for further namespaces."""
    environment: tuple[tuple[str, str], ...] = ()


def python(*arguments: str) -> tuple[str, ...]:
    """Return the command line of a module of this installation."""
    return (sys.executable, "-m", *arguments)


def apiserver(topology: Topology) -> ServiceSpec:
    """Return the API server in L-control."""
    base = topology.directory
    listens = [f"{topology.control_ipv4}:{API_PORT}", f"127.0.0.1:{API_PORT}"]
    if topology.control_ipv6:
        listens.append(f"[{topology.control_ipv6}]:{API_PORT}")
    listen = [part for address in listens for part in ("--listen", address)]
    files = {
        "--store": base / "api.sqlite",
        "--ca-cert": base / "pki/ca.crt",
        "--ca-key": base / "pki/ca.key",
        "--tls-cert": base / "pki/apiserver.crt",
        "--tls-key": base / "pki/apiserver.key",
        "--tokens": base / "tokens.csv",
    }
    options = [part for option, path in files.items() for part in (option, str(path))]
    rest = ["--family", topology.spec.family, "--advertise", topology.control_ipv4]
    return ServiceSpec("apiserver", python("lab.embedded.apiserver", *listen, *options, *rest), topology.control_netns)


def lab_services(topology: Topology) -> list[ServiceSpec]:
    """Return the services that make API objects come true, and the outside."""
    kubeconfig = str(topology.directory / "kubeconfig")
    lab = ("--lab", topology.name)
    return [
        ServiceSpec("outside", python("lab.outside", *lab), topology.outside_netns),
        ServiceSpec("cluster", python("lab.embedded.cluster", *lab, "--kubeconfig", kubeconfig), None),
        ServiceSpec("proxy", python("lab.embedded.proxy", *lab), None),
        ServiceSpec("policy", python("lab.policy", *lab, "--kubeconfig", kubeconfig), None),
    ]


def controller(topology: Topology) -> ServiceSpec:
    """Return kubereach's controller, in the namespace of the first node."""
    home = topology.nodes[0]
    base = topology.directory
    # With the addresses, since a node's own resolver knows nothing of the lab's outside.
    outside = ",".join(filter(None, (topology.outside_ipv4, topology.outside_ipv6)))
    urls = ("http://web.outside.test/", "https://web.outside.test/", "http://registry.outside.test:5000/v2/")
    targets = tuple(f"{url},{outside}" for url in urls)
    argv = [
        *python("cli.main", "controller"),
        *("--kubeconfig", str(base / "controller/kubeconfig")),
        *("--listen", f"{home.ipv4}:{CONTROLLER_PORT}"),
        *("--listen-plain", f"127.0.0.1:{CONTROLLER_PLAIN_PORT}"),
        *("--tls-cert", str(base / "pki/controller.crt")),
        *("--tls-key", str(base / "pki/controller.key")),
        *("--state-dir", str(base / "controller")),
    ]
    argv += [part for target in targets for part in ("--egress-target", target)]
    for cidr in filter(None, (topology.cluster_cidr4, topology.cluster_cidr6)):
        argv += ["--cluster-cidr", cidr]
    for cidr in filter(None, (topology.service_cidr4, topology.service_cidr6)):
        argv += ["--service-cidr", cidr]
    return ServiceSpec("controller", tuple(argv), home.netns)


def agent(topology: Topology, node: NodeSpec, enter: tuple[str, ...] = ()) -> ServiceSpec:
    """Return kubereach's agent on one node; `enter` leads into the mounts of a node that has its own."""
    base = topology.node_directory(node.name)
    places = (str(base / "netns"), str(base / "cni/net.d"), str(base / "cni/bin"))
    netns_dir, conf_dir, bin_dir = ("/run/netns", "/etc/cni/net.d", "/opt/cni/bin") if enter else places
    argv = [
        *python("cli.main", "agent"),
        *("--node", node.name),
        *(part for address in node.addresses for part in ("--node-address", address)),
        *("--controller", f"{topology.nodes[0].ipv4}:{CONTROLLER_PORT}"),
        *("--ca", str(topology.directory / "pki/ca.crt")),
        *("--token-file", str(base / "agent/token")),
        *("--netns-dir", netns_dir),
        *("--cni-conf-dir", conf_dir),
        *("--cni-bin-dir", bin_dir),
        *("--state-dir", str(base / "agent")),
    ]
    for peer in topology.nodes:
        if peer.name != node.name:
            argv += ["--neighbour", f"{peer.ipv4}:{RELAY_PORT}"]
    return ServiceSpec(f"agent/{node.name}", tuple(argv), node.netns, enter)


def kubeconfig(topology: Topology, server: str, user: str, token: str) -> str:
    """Return a kubeconfig (JSON, which is YAML) for one user."""
    name = f"kubereach-{topology.name}"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [
            {
                "name": name,
                "cluster": {
                    "server": server,
                    "certificate-authority": str(topology.directory / "pki/ca.crt"),
                },
            }
        ],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
    }
    return msgspec.json.format(msgspec.json.encode(config), indent=2).decode() + "\n"


def write_private(path: Path, text: str) -> None:
    """Write a file that only root reads, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".new")
    partial.touch(mode=0o600)
    partial.write_text(text)
    partial.replace(path)


def prepare(topology: Topology) -> str:
    """Make CA, certificates and the admin's token file; return that token."""
    directory = topology.directory / "pki"
    pki.make_ca(directory)
    ips = [topology.control_ipv4, "127.0.0.1", topology.api_service4]
    if topology.spec.dual:
        ips += [topology.control_ipv6 or "", "fd96::1", "::1"]
    domain = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
    pki.issue(directory, "apiserver", ips, [*domain, "localhost"])
    home = topology.nodes[0]
    pki.issue(directory, "controller", [*home.addresses, "127.0.0.1"], [home.name, "localhost"])
    token = secrets.token_urlsafe(24)
    write_private(topology.directory / "tokens.csv", f'{token},{ADMIN},{ADMIN},"system:masters"\n')
    return token
