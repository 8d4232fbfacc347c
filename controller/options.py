"""The controller's command line, checked: what is wrong is said in one line that names the option."""

from __future__ import annotations

import argparse
import ssl
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit

from controller.cluster.state import Gives, Pool
from controller.introduce import Introduction
from controller.plan.expectation import AdminPolicies
from controller.plan.paths import EgressTarget, PlanSettings
from controller.web.server import Listen
from model.probes import CONTROLLER_PLAIN_PORT, CONTROLLER_PORT

NONE = "none"


class OptionError(Exception):
    """An option cannot be used; the text names it."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the controller was started with. `tls` are certificate and key file; `introduction` is for the agents."""

    kubeconfig: Path | None
    listen: tuple[Listen, ...]
    tls: tuple[Path, Path] | None
    state_dir: Path | None
    settings: PlanSettings
    agent_account: str
    verbose: bool
    introduction: Introduction | None = None
    admin_policies: AdminPolicies = AdminPolicies.DETECT
    pools: tuple[Pool, ...] = ()


def build_parser() -> argparse.ArgumentParser:
    """The parser of `kubereach controller`."""
    parser = argparse.ArgumentParser(
        prog="kubereach controller",
        description="Watches the cluster, plans probes, takes in results, names causes, serves API and browser view.",
    )
    parser.add_argument("--kubeconfig", type=Path, help="access to the API server (default: the pod's ServiceAccount)")
    parser.add_argument("--listen", default=f":{CONTROLLER_PORT}", metavar="ADDRESS:PORT", help="with TLS; or none")
    parser.add_argument(
        "--listen-plain",
        default=f"127.0.0.1:{CONTROLLER_PLAIN_PORT}",
        metavar="ADDRESS:PORT",
        help="without TLS, for port-forwards: a loopback address; or none",
    )
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain (PEM)")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its key (PEM)")
    parser.add_argument("--tls-secret", default="", metavar="NAME", help="instead: keep both in this Secret, renewed")
    parser.add_argument("--tls-ca", type=Path, metavar="FILE", help="authority of --tls-cert, for --publish")
    parser.add_argument("--publish", default="", metavar="NAME", help="ConfigMap that tells agents of this controller")
    parser.add_argument("--advertise", default="", metavar="ADDRESS,…", help="the node's addresses, for --publish")
    parser.add_argument("--service", default="kubereach-controller", metavar="NAME", help="Service that is certified")
    parser.add_argument("--state-dir", type=Path, metavar="DIR", help="keeps incidents and agents over a restart")
    parser.add_argument(
        "--egress-target",
        action="append",
        default=[],
        metavar="URL[,ADDRESS…]",
        help="outside target to probe; with addresses also from hosts, whose resolver is not the cluster's",
    )
    parser.add_argument("--cluster-domain", default="cluster.local", metavar="DOMAIN")
    parser.add_argument(
        "--cluster-cidr", action="append", default=[], metavar="CIDR", help="pods' addresses, where no IPPool tells"
    )
    parser.add_argument(
        "--service-cidr",
        action="append",
        default=[],
        metavar="CIDR",
        help="Services' addresses, where no ServiceCIDR tells",
    )
    parser.add_argument("--namespace", default="kubereach", help="of kubereach's own pods")
    parser.add_argument("--agent-service-account", default="kubereach-agent", metavar="NAME")
    parser.add_argument(
        "--admin-policies",
        choices=[one.value for one in AdminPolicies],
        default=AdminPolicies.DETECT.value,
        help="whether the network plugin implements AdminNetworkPolicy, BaselineAdminNetworkPolicy and "
        "ClusterNetworkPolicy (default: those whose status somebody writes; of others nothing is concluded)",
    )
    parser.add_argument("--verbose", action="store_true", help="log every plan and connection")
    return parser


def parse(argv: list[str]) -> Options:
    """Options from arguments. Raises OptionError; argparse itself exits with 2."""
    args = build_parser().parse_args(argv)
    tls = _tls(args.tls_cert, args.tls_key)
    introduction = _introduction(args, tls)
    listen = []
    if args.listen != NONE:
        if tls is None and introduction is None:
            raise OptionError("--listen wants TLS: give --tls-cert and --tls-key, or --listen none")
        listen.append(_address("--listen", args.listen, tls_context(tls)))
    if args.listen_plain != NONE:
        plain = _address("--listen-plain", args.listen_plain, None)
        if plain.host != "localhost" and not (plain.host and ip_address(plain.host).is_loopback):
            raise OptionError(f"--listen-plain {args.listen_plain}: tokens would travel in the clear; use 127.0.0.1")
        listen.append(plain)
    if not listen:
        raise OptionError("--listen and --listen-plain are both none: nobody could reach the controller")
    return Options(
        kubeconfig=args.kubeconfig,
        listen=tuple(listen),
        tls=tls,
        state_dir=args.state_dir,
        settings=PlanSettings(
            namespace=args.namespace,
            cluster_domain=args.cluster_domain.strip("."),
            egress_targets=tuple(egress_target(text) for text in args.egress_target),
        ),
        agent_account=args.agent_service_account,
        verbose=args.verbose,
        introduction=introduction,
        admin_policies=AdminPolicies(args.admin_policies),
        pools=(
            *(_pool("--cluster-cidr", text, Gives.PODS) for text in args.cluster_cidr),
            *(_pool("--service-cidr", text, Gives.SERVICES) for text in args.service_cidr),
        ),
    )


def egress_target(text: str) -> EgressTarget:
    """URL[,ADDRESS…]. Raises OptionError."""
    url, *addresses = text.split(",")
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        found = [str(ip_address(address.strip())) for address in addresses]
    except ValueError as error:
        raise OptionError(f"--egress-target {text}: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise OptionError(f"--egress-target {text}: is no http or https URL")
    try:
        found = found or [str(ip_address(parts.hostname))]
    except ValueError:
        found = []
    return EgressTarget(url=url, host=parts.hostname, port=port, addresses=tuple(found))


def tls_context(files: tuple[Path, Path] | None) -> ssl.SSLContext:
    """The server's side of TLS; without files the certificate comes later, from its Secret. Raises OptionError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if files is not None:
        load_certificate(context, files)
    return context


def load_certificate(context: ssl.SSLContext, files: tuple[Path, Path]) -> None:
    """Loads certificate and key, also anew into a context in use. Raises OptionError."""
    try:
        context.load_cert_chain(*files)
    except (OSError, ssl.SSLError) as error:
        raise OptionError(f"--tls-cert {files[0]}, --tls-key {files[1]}: {error.strerror or error}") from None


def _introduction(args: argparse.Namespace, tls: tuple[Path, Path] | None) -> Introduction | None:
    """What is published for agents. Raises OptionError."""
    if not args.publish:
        if args.tls_secret:
            raise OptionError("--tls-secret goes with --publish: agents must be told its authority")
        return None
    if bool(args.tls_secret) == (tls is not None):
        raise OptionError("--publish wants --tls-secret, or --tls-cert and --tls-key")
    if tls is not None and args.tls_ca is None:
        raise OptionError("--publish with --tls-cert wants --tls-ca: agents must be told what to trust")
    if args.listen == NONE:
        raise OptionError("--publish wants --listen: there is nothing to publish")
    try:
        addresses = tuple(str(ip_address(text.strip())) for text in args.advertise.split(","))
    except ValueError as error:
        raise OptionError(f"--advertise {args.advertise}: {error}; name the node's addresses") from None
    return Introduction(
        namespace=args.namespace,
        config_map=args.publish,
        secret=args.tls_secret,
        addresses=addresses,
        port=_address("--listen", args.listen, None).port,
        server_name=f"{args.service}.{args.namespace}.svc",
        ca=args.tls_ca,
    )


def _tls(certificate: Path | None, key: Path | None) -> tuple[Path, Path] | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise OptionError("--tls-cert and --tls-key belong together")
    return certificate, key


def _pool(option: str, text: str, gives: Gives) -> Pool:
    try:
        return Pool(kind=option, name=text, gives=gives, cidrs=(str(ip_network(text)),))
    except ValueError as error:
        raise OptionError(f"{option} {text}: {error}") from None


def _address(option: str, text: str, tls: ssl.SSLContext | None) -> Listen:
    host, colon, port = text.rpartition(":")
    host = host.strip("[]")
    try:
        number = int(port)
        if host and host != "localhost":
            ip_address(host)
    except ValueError:
        number = -1
    if not colon or not 0 <= number <= 65535:
        raise OptionError(f"{option} {text}: write ADDRESS:PORT, for example 127.0.0.1:8704")
    return Listen(host, number, tls)
