"""The daemons of a real Kubernetes as data: what runs where with which arguments, and the files they read.

`prepare` writes certificates, tokens and configuration; all else is pure. The flags are those of a cluster as kubeadm
makes it where they show on the network; no host-wide setting of the machine is touched (conntrack's size, say).
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

import msgspec

from lab import pki, services
from lab.client import Object
from lab.kubernetes import build, cgroups, images
from lab.services import ServiceSpec
from lab.spec import API_PORT, CLUSTER_DOMAIN, NodeSpec, Topology

CONTAINERD_SOCKET: Final = "run/containerd/containerd.sock"
ETCD_URL: Final = "http://127.0.0.1:2379"
# User name → groups, of every daemon that speaks to the API; each node adds its kubelet's.
ACCOUNTS: Final = {
    "system:kube-controller-manager": "",
    "system:kube-scheduler": "",
    "system:kube-proxy": "",
    "flannel": "",
}


def _cidrs(first: str, second: str | None) -> str:
    return ",".join(filter(None, (first, second)))


def kubeconfig_path(topology: Topology, user: str) -> Path:
    """Where a daemon's kubeconfig lies."""
    return topology.directory / "kubernetes" / f"{user.replace(':', '-')}.kubeconfig"


def prepare(topology: Topology) -> None:
    """Write what the daemons read, beside what `services.prepare` wrote before; raises OSError."""
    pki.issue(topology.directory / "pki", "service-accounts")
    pki.issue(topology.directory / "pki", "kubelet-client", subject=("apiserver", "system:masters"), client=True)
    near, far = f"https://127.0.0.1:{API_PORT}", f"https://{topology.control_ipv4}:{API_PORT}"
    accounts = dict(ACCOUNTS) | {f"system:node:{node.name}": "system:nodes" for node in topology.nodes}
    lines = []
    for user, groups in accounts.items():
        token = secrets.token_urlsafe(24)
        lines.append(f'{token},{user},{user},"{groups}"\n')
        server = near if user in ("system:kube-controller-manager", "system:kube-scheduler") else far
        services.write_private(kubeconfig_path(topology, user), services.kubeconfig(topology, server, user, token))
    tokens = topology.directory / "tokens.csv"
    services.write_private(tokens, tokens.read_text() + "".join(lines))
    network: Object = {"Network": topology.cluster_cidr4, "Backend": {"Type": topology.spec.cni.partition("-")[2]}}
    if topology.spec.dual:
        network |= {"EnableIPv6": True, "IPv6Network": topology.cluster_cidr6}
    _write_json(topology.directory / "kubernetes/net-conf.json", network)
    for node in topology.nodes:
        base = topology.node_directory(node.name)
        (base / "containerd.toml").write_text(containerd_config(topology, node))
        _write_json(base / "kubelet.json", kubelet_config(topology, node))


def _write_json(path: Path, value: Object) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2))


def containerd_config(topology: Topology, node: NodeSpec) -> str:
    """Return containerd's configuration of a node (version 2)."""
    base = topology.node_directory(node.name)
    # oom scores: root in a container of its own may lack CAP_SYS_RESOURCE, and runc fails then
    return f"""version = 2
root = "{base}/containerd"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{images.PAUSE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
"""


def kubelet_config(topology: Topology, node: NodeSpec) -> Object:
    """Return a node's KubeletConfiguration (kubelet.config.k8s.io/v1beta1)."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(topology.directory / "pki/ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroups.group_of(topology.name, node.name),
        "enforceNodeAllocatable": [],
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDNS": [topology.dns_service4],
        "clusterDomain": CLUSTER_DOMAIN,
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "resolvConf": "/etc/resolv.conf",
        # The machine's disk and memory are not the lab's to judge.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "1Mi"},
        # 40 pods start at once and nothing is ever pulled.
        "serializeImagePulls": False,
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
    }


def control_plane(topology: Topology) -> list[ServiceSpec]:
    """Return etcd and the API server in L-control, in this order."""
    base, pki_base = topology.directory, topology.directory / "pki"
    etcd = [
        "etcd",
        *("--name", topology.name, "--data-dir", str(base / "etcd"), "--logger", "zap", "--log-level", "warn"),
        *("--listen-client-urls", ETCD_URL, "--advertise-client-urls", ETCD_URL),
        *("--listen-peer-urls", "http://127.0.0.1:2380", "--initial-advertise-peer-urls", "http://127.0.0.1:2380"),
        *("--initial-cluster", f"{topology.name}=http://127.0.0.1:2380", "--unsafe-no-fsync"),
    ]
    apiserver = [
        build.binary("kube-apiserver"),
        f"--etcd-servers={ETCD_URL}",
        f"--service-cluster-ip-range={_cidrs(topology.service_cidr4, topology.service_cidr6)}",
        f"--secure-port={API_PORT}",
        f"--bind-address={'::' if topology.spec.dual else '0.0.0.0'}",
        f"--advertise-address={topology.control_ipv4}",
        f"--tls-cert-file={pki_base}/apiserver.crt",
        f"--tls-private-key-file={pki_base}/apiserver.key",
        f"--client-ca-file={pki_base}/ca.crt",
        f"--token-auth-file={base}/tokens.csv",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--service-account-key-file={pki_base}/service-accounts.crt",
        f"--service-account-signing-key-file={pki_base}/service-accounts.key",
        f"--service-account-issuer=https://kubernetes.default.svc.{CLUSTER_DOMAIN}",
        f"--kubelet-client-certificate={pki_base}/kubelet-client.crt",
        f"--kubelet-client-key={pki_base}/kubelet-client.key",
        "--kubelet-preferred-address-types=InternalIP",
        "--allow-privileged=true",
    ]
    return [ServiceSpec(argv[0].rpartition("/")[2], tuple(argv), topology.control_netns) for argv in (etcd, apiserver)]


def controllers(topology: Topology) -> list[ServiceSpec]:
    """Return controller-manager and scheduler in L-control.

    They elect a leader as everywhere: so they end when the API server is away, and what they knew of nodes' health ends
    with them. One that went on would mark every pod as not Ready when the API server is back.
    """
    pki_base = topology.directory / "pki"
    sizes = ["--node-cidr-mask-size=24"]
    if topology.spec.dual:
        sizes = ["--node-cidr-mask-size-ipv4=24", "--node-cidr-mask-size-ipv6=64"]
    manager = [
        build.binary("kube-controller-manager"),
        f"--kubeconfig={kubeconfig_path(topology, 'system:kube-controller-manager')}",
        "--allocate-node-cidrs",
        f"--cluster-cidr={_cidrs(topology.cluster_cidr4, topology.cluster_cidr6)}",
        f"--service-cluster-ip-range={_cidrs(topology.service_cidr4, topology.service_cidr6)}",
        *sizes,
        f"--root-ca-file={pki_base}/ca.crt",
        f"--service-account-private-key-file={pki_base}/service-accounts.key",
        f"--cluster-signing-cert-file={pki_base}/ca.crt",
        f"--cluster-signing-key-file={pki_base}/ca.key",
        "--use-service-account-credentials",
        "--leader-elect=true",
    ]
    scheduler = [
        build.binary("kube-scheduler"),
        f"--kubeconfig={kubeconfig_path(topology, 'system:kube-scheduler')}",
        "--leader-elect=true",
    ]
    return [
        ServiceSpec(name, tuple(argv), topology.control_netns)
        for name, argv in (("controller-manager", manager), ("scheduler", scheduler))
    ]


def containerd(topology: Topology, node: NodeSpec, enter: tuple[str, ...]) -> ServiceSpec:
    """Return a node's containerd; `enter` leads into the node's mounts."""
    config = topology.node_directory(node.name) / "containerd.toml"
    argv = ("containerd", "--config", str(config))
    return ServiceSpec(f"containerd/{node.name}", argv, node.netns, enter)


def node_daemons(topology: Topology, node: NodeSpec, enter: tuple[str, ...]) -> list[ServiceSpec]:
    """Return flannel, kubelet and kube-proxy of a node."""
    base = topology.node_directory(node.name)
    kubelet = [
        build.binary("kubelet"),
        f"--config={base}/kubelet.json",
        f"--kubeconfig={kubeconfig_path(topology, f'system:node:{node.name}')}",
        f"--root-dir={base}/kubelet",
        f"--cert-dir={base}/pki",
        f"--hostname-override={node.name}",
        f"--node-ip={','.join(node.addresses)}",
    ]
    flannel = [
        build.binary("flannel"),
        "--kube-subnet-mgr",
        f"--kubeconfig-file={kubeconfig_path(topology, 'flannel')}",
        f"--net-config-path={topology.directory}/kubernetes/net-conf.json",
        "--iface=eth0",
        "--ip-masq",
    ]
    proxy = [
        build.binary("kube-proxy"),
        f"--kubeconfig={kubeconfig_path(topology, 'system:kube-proxy')}",
        f"--hostname-override={node.name}",
        f"--cluster-cidr={_cidrs(topology.cluster_cidr4, topology.cluster_cidr6)}",
        f"--proxy-mode={topology.spec.proxy}",
        # conntrack's size is one for the whole machine
        "--conntrack-max-per-core=0",
    ]
    name = node.name
    return [
        ServiceSpec(f"flannel/{name}", tuple(flannel), node.netns, enter, (("NODE_NAME", name),)),
        ServiceSpec(f"kubelet/{name}", tuple(kubelet), node.netns, enter),
        ServiceSpec(f"kube-proxy/{name}", tuple(proxy), node.netns, enter),
    ]


def beside(topology: Topology) -> list[ServiceSpec]:
    """Return the lab's own services beside a real Kubernetes: outside, NetworkPolicy, and what surrounds nodes."""
    kubeconfig = str(topology.directory / "kubeconfig")
    lab = ("--lab", topology.name, "--kubeconfig", kubeconfig)
    return [
        ServiceSpec("outside", services.python("lab.outside", "--lab", topology.name), topology.outside_netns),
        ServiceSpec("surroundings", services.python("lab.kubernetes.surroundings", *lab), None),
        ServiceSpec("policy", services.python("lab.policy", *lab), None),
    ]


def node_object(node: NodeSpec) -> Object:
    """Return a Node before its kubelet registers: with the topology's pod ranges and zone.

    The annotation is what the controller-manager writes; flannel panics on a Node without any.
    """
    labels = {"kubernetes.io/hostname": node.name, "topology.kubernetes.io/zone": node.zone}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": labels, "annotations": {"node.alpha.kubernetes.io/ttl": "0"}},
        "spec": {"podCIDR": node.pod_cidr4, "podCIDRs": node.pod_cidrs},
    }
