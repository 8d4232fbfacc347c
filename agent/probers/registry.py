"""Which probe belongs to which method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from agent.probers import dns, http, icmp, tcp, udp
from agent.probers.drive import Ground, Probe
from model.probes import ProbeOrder
from model.words import Method

PROBES: Final[dict[Method, Callable[[Ground, ProbeOrder, int], Probe]]] = {
    Method.UDP: udp.probe,
    Method.TCP: tcp.probe,
    Method.ICMP: icmp.probe,
    Method.DNS: dns.probe,
    Method.HTTP: http.probe,
}
