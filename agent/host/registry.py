"""The table of subjects: which module reads which field of `Facts`. A subject is added by a line here.

Modules are imported when they are asked for, so that a small order pays for no large one.
"""

# ruff: noqa: PLC0415 - late imports are this module's purpose
from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from agent.host.context import Context
from agent.netns import OWN
from model.facts import FactsOrder


def _links(context: Context) -> object:
    return context.links


def _addresses(context: Context) -> object:
    return context.addresses


def _routes(context: Context) -> object:
    return context.routes


def _rules(context: Context) -> object:
    from agent.host import rules

    return rules.read(context.netlink)


def _neighbours(context: Context) -> object:
    from agent.host import neighbours

    return neighbours.read(context.netlink, context.device_names)


def _fdb(context: Context) -> object:
    from agent.host import fdb

    return fdb.read(context.netlink, context.device_names)


def _sysctls(context: Context) -> object:
    from agent.host import sysctls

    return sysctls.read(context.device_names.values())


def _sockets(_: Context) -> object:
    from agent.host import sockets

    return sockets.read()


def _resolver(context: Context) -> object:
    from agent import resolvconf

    return resolvconf.read(context.netns or OWN)


def _cni(context: Context) -> object:
    from agent.host import cni

    return cni.read(context.cni_conf_dir, context.cni_bin_dirs)


def _ipvs(_: Context) -> object:
    from agent.host import ipvs

    return ipvs.read()


def _conntrack(_: Context) -> object:
    from agent.host import conntrack

    return conntrack.read()


def _conntrack_entries(context: Context) -> object:
    from agent.host import conntrack

    return conntrack.entries(context.order.conntrack_asked)


def _counters(_: Context) -> object:
    from agent.host import counters

    return counters.read()


def _route_answers(context: Context) -> object:
    from agent.host import route_answers

    return route_answers.read(context.netlink, context.order.routes_asked, context.device_names)


def _walks(context: Context) -> object:
    return context.firewall.walks()


def _droppers(context: Context) -> object:
    return context.firewall.droppers()


def _resolved(context: Context) -> object:
    from agent.host import resolutions

    return resolutions.read(context)


READERS: Final[dict[str, Callable[[Context], Any]]] = {
    "links": _links,
    "addresses": _addresses,
    "routes": _routes,
    "rules": _rules,
    "neighbours": _neighbours,
    "fdb": _fdb,
    "sysctls": _sysctls,
    "sockets": _sockets,
    "resolver": _resolver,
    "cni": _cni,
    "ipvs": _ipvs,
    "conntrack": _conntrack,
    "conntrack_entries": _conntrack_entries,
    "counters": _counters,
    "route_answers": _route_answers,
    "walks": _walks,
    "droppers": _droppers,
    "resolved": _resolved,
}


def wanted(order: FactsOrder) -> tuple[str, ...]:
    """The subjects that an order asks for, those that its queries imply included."""
    implied = {
        "route_answers": order.routes_asked,
        "walks": order.walks_asked,
        "droppers": order.droppers_asked,
        "resolved": order.resolve_asked,
        "conntrack_entries": order.conntrack_asked,
    }
    asked = [*order.subjects, *(subject for subject, queries in implied.items() if queries)]
    return tuple(dict.fromkeys(asked))
