"""What a Pod object means for processes: command lines, environment, resolv.conf, hosts. Pure.

Images a lab knows: `kubereach-lab` (the answerer), `kubereach-endpoint`, `kubereach-lab-dns` (unbound). A pod of any
other image, or of `kubereach-lab` without --listen, answers on every declared containerPort.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.client import Object
from lab.embedded.cluster import objects
from lab.spec import CLUSTER_DOMAIN, Topology

ANSWER: Final = Path(__file__).resolve().parents[2] / "answer.py"
ENDPOINT_IMAGE: Final = "kubereach-endpoint"
LAB_IMAGE: Final = "kubereach-lab"
DNS_IMAGE: Final = "kubereach-lab-dns"


@dataclass(frozen=True, slots=True)
class Program:
    """One container's process."""

    container: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    listens: tuple[tuple[str, int], ...]
    """(protocol, port) that the process opens once it works; empty where that is not known."""


def image_name(image: str) -> str:
    """Return the last part of an image's name, without registry, tag and digest."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0]


def is_dns(pod: Object) -> bool:
    """Return whether the pod runs the lab's name server."""
    return any(image_name(entry.get("image") or "") == DNS_IMAGE for entry in pod["spec"]["containers"])


def program(pod: Object, container: Object, values: Mapping[str, str], dns_conf: Path) -> Program:
    """Return the process of one container; `values` are the pod's fields that the environment may refer to."""
    image = image_name(container.get("image") or "")
    listens = tuple(
        (port.get("protocol") or "TCP", int(port["containerPort"])) for port in container.get("ports") or []
    )
    if image == DNS_IMAGE:
        argv = ["unbound", "-d", "-c", str(dns_conf)]
    elif image == ENDPOINT_IMAGE:
        argv = [sys.executable, "-m", "cli.main", "endpoint", *(container.get("args") or [])]
    else:
        arguments = [str(word) for word in container.get("args") or []]
        if image != LAB_IMAGE or not any(word.startswith("--listen") for word in arguments):
            arguments = []
            for protocol, port in listens:
                if protocol in ("TCP", "UDP"):
                    arguments += ["--listen", f"{protocol}/{port}"]
        else:
            listens = ()
            arguments = [part for word in arguments for part in _split(word)]
        python = [sys.executable, "-S", "-E", "-s"]
        argv = [*python, str(ANSWER), "--name", f"{objects.namespace(pod)}/{objects.name(pod)}", *arguments]
    known = tuple(entry for entry in listens if entry[0] in ("TCP", "UDP"))
    return Program(container["name"], tuple(argv), _environment(container, values), known)


def _split(word: str) -> list[str]:
    option, equals, value = word.partition("=")
    return [option, value] if equals and option == "--listen" else [word]


def _environment(container: Object, values: Mapping[str, str]) -> dict[str, str]:
    environment = {}
    for entry in container.get("env") or []:
        if "value" in entry:
            environment[entry["name"]] = str(entry["value"])
        else:
            path = str(((entry.get("valueFrom") or {}).get("fieldRef") or {}).get("fieldPath"))
            if path in values:
                environment[entry["name"]] = values[path]
    return environment


def field_values(pod: Object, ips: list[str], host_ip: str) -> dict[str, str]:
    """Return what `valueFrom.fieldRef` may name."""
    return {
        "metadata.name": objects.name(pod),
        "metadata.namespace": objects.namespace(pod),
        "metadata.uid": objects.uid(pod),
        "spec.nodeName": pod["spec"].get("nodeName") or "",
        "spec.serviceAccountName": pod["spec"].get("serviceAccountName") or "default",
        "status.hostIP": host_ip,
        "status.podIP": ips[0] if ips else "",
        "status.podIPs": ",".join(ips),
    }


def resolv_conf(pod: Object, topology: Topology) -> str:
    """Return the pod's /etc/resolv.conf, as kubelet writes it for its dnsPolicy and dnsConfig."""
    spec = pod["spec"]
    policy = spec.get("dnsPolicy") or "ClusterFirst"
    if policy == "ClusterFirst" and spec.get("hostNetwork"):
        policy = "Default"
    servers: list[str] = []
    searches: list[str] = []
    options: list[str] = []
    if policy in ("ClusterFirst", "ClusterFirstWithHostNet"):
        servers = [topology.dns_service4]
        ours = f"svc.{CLUSTER_DOMAIN}"
        searches = [f"{objects.namespace(pod)}.{ours}", ours, CLUSTER_DOMAIN]
        options = ["ndots:5"]
    elif policy == "Default":
        servers = [topology.outside_ipv4]
    config = spec.get("dnsConfig") or {}
    servers += [entry for entry in config.get("nameservers") or [] if entry not in servers]
    searches += [entry for entry in config.get("searches") or [] if entry not in searches]
    for option in config.get("options") or []:
        options = [have for have in options if have.partition(":")[0] != option["name"]]
        options.append(option["name"] + (f":{option['value']}" if option.get("value") else ""))
    lines = [f"search {' '.join(searches)}"] if searches else []
    lines += [f"nameserver {server}" for server in servers[:3]]
    lines += [f"options {' '.join(options)}"] if options else []
    return "\n".join(lines) + "\n"


def hosts(pod: Object, ips: list[str]) -> str:
    """Return the pod's /etc/hosts."""
    spec = pod["spec"]
    hostname = spec.get("hostname") or objects.name(pod)
    names = hostname
    if spec.get("subdomain"):
        fqdn = f"{hostname}.{spec['subdomain']}.{objects.namespace(pod)}.svc.{CLUSTER_DOMAIN}"
        names = f"{fqdn} {hostname}"
    lines = ["# Kubernetes-managed hosts file.", "127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost"]
    lines += [f"{ip}\t{names}" for ip in ips]
    for entry in spec.get("hostAliases") or []:
        lines.append(f"{entry['ip']}\t{' '.join(entry.get('hostnames') or [])}")
    return "\n".join(lines) + "\n"
