"""Names of kube-proxy's chains, derived as kube-proxy 1.34 derives them, so that every tool recognises them.

Pure text. Sources: pkg/proxy/iptables/proxier.go and pkg/proxy/nftables/proxier.go of Kubernetes.
"""

import base64
import hashlib

from lab.embedded.proxy.services import Endpoint, ServicePort

IPTABLES_HASH_LENGTH = 16
NFTABLES_HASH_LENGTH = 8
# The kernel takes names up to 255 bytes; kube-proxy leaves room for its longest prefix.
NFTABLES_NAME_LENGTH = 240


def _hash(text: str, length: int) -> str:
    return base64.b32encode(hashlib.sha256(text.encode()).digest()).decode()[:length]


def iptables_service(prefix: str, port: ServicePort) -> str:
    """Return e.g. KUBE-SVC-… for prefix "SVC" (also SVL, EXT, FW)."""
    return f"KUBE-{prefix}-{_hash(port.label + port.protocol, IPTABLES_HASH_LENGTH)}"


def iptables_endpoint(port: ServicePort, endpoint: Endpoint) -> str:
    """Return KUBE-SEP-… of an endpoint of a service port."""
    return f"KUBE-SEP-{_hash(port.label + port.protocol + endpoint.text, IPTABLES_HASH_LENGTH)}"


def _hashed(name: str) -> str:
    return f"{_hash(name, NFTABLES_HASH_LENGTH)}-{name}"[:NFTABLES_NAME_LENGTH]


def _nftables_path(port: ServicePort) -> str:
    return f"{port.namespace}/{port.service}/{port.protocol}/{port.port_name}"


def nftables_service(prefix: str, port: ServicePort) -> str:
    """Return e.g. service-HASH-ns/name/tcp/http for prefix "service" (also local, external, firewall)."""
    return f"{prefix}-{_hashed(_nftables_path(port))}"


def nftables_endpoint(prefix: str, port: ServicePort, endpoint: Endpoint) -> str:
    """Return e.g. endpoint-HASH-ns/name/tcp/http__10.0.0.1/80 for prefix "endpoint" (also affinity)."""
    address = endpoint.address.replace(":", ".")
    return f"{prefix}-{_hashed(f'{_nftables_path(port)}__{address}/{endpoint.port}')}"
