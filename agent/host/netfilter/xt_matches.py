"""Judges of iptables' match modules: whether one holds for a packet; None where that cannot be told.

A module that is not in the table is None: it makes its rule unsure and nothing else. Sources: iptables-extensions(8)
and net/netfilter/xt_*.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from agent.host.netfilter import ipset
from agent.host.netfilter.packet import PROTOCOL_NUMBERS, WITH_PORTS, Seen, network
from agent.host.netfilter.world import World
from agent.host.netfilter.xtables import Match, Option

Judge = Callable[[Option, Seen, World], bool | None]
ICMP_TYPES: Final = {
    "echo-reply": 0, "pong": 0, "destination-unreachable": 3, "source-quench": 4, "redirect": 5, "echo-request": 8,
    "ping": 8, "router-advertisement": 9, "router-solicitation": 10, "time-exceeded": 11, "parameter-problem": 12,
}  # fmt: skip
ICMP6_TYPES: Final = {
    "destination-unreachable": 1, "packet-too-big": 2, "time-exceeded": 3, "parameter-problem": 4,
    "echo-request": 128, "echo-reply": 129, "router-solicitation": 133, "router-advertisement": 134,
    "neighbour-solicitation": 135, "neighbor-solicitation": 135, "neighbour-advertisement": 136,
    "neighbor-advertisement": 136, "redirect": 137,
}  # fmt: skip
TCP_FLAGS: Final = {"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32, "ALL": 63, "NONE": 0}


def judge(match: Match, packet: Seen, world: World) -> bool | None:
    """Whether all options of a match hold; None if none fails but one cannot be judged."""
    table = JUDGES.get(match.module)
    if table is None:
        return None
    answer: bool | None = True
    for option in match.options:
        one = table.get(option.name, table.get("*"))
        try:
            holds = one(option, packet, world) if one else None
        except ValueError:
            holds = None
        if holds is not None and option.inverted:
            holds = not holds
        if holds is False:
            return False
        if holds is None:
            answer = None
    return answer


def protocol_number(text: str) -> int:
    """A protocol's number from its name or number; -1 if unknown."""
    return int(text) if text.isdigit() else PROTOCOL_NUMBERS.get(text.lower(), -1)


def in_range(text: str, value: int) -> bool:
    """Whether a value is in "a", "a:b", ":b" or "a:"."""
    first, colon, last = text.partition(":")
    low = int(first or "0", 0)
    high = int(last, 0) if last else (0xFFFFFFFF if colon else low)
    return low <= value <= high


def is_device(pattern: str, device: str) -> bool:
    """Whether a device's name fits; "eth+" is every name that begins so."""
    return device.startswith(pattern[:-1]) if pattern.endswith("+") else device == pattern


def _within(text: str, family: int, value: int) -> bool:
    first, last, _ = network(text)
    return (":" in text) == (family == 6) and first <= value <= last


def _source(option: Option, packet: Seen, _: World) -> bool:
    return any(_within(one, packet.family, packet.source) for one in option.value.split(","))


def _destination(option: Option, packet: Seen, _: World) -> bool:
    return any(_within(one, packet.family, packet.destination) for one in option.value.split(","))


def _protocol(option: Option, packet: Seen, _: World) -> bool | None:
    wanted = protocol_number(option.value)
    if option.value in {"all", "0"}:
        return True
    return None if wanted < 0 else wanted == PROTOCOL_NUMBERS.get(packet.protocol)


def _port(is_source: bool, is_destination: bool, protocols: set[str]) -> Judge:
    def one(option: Option, packet: Seen, _: World) -> bool:
        if packet.protocol not in protocols:
            return False
        values = ([packet.source_port] if is_source else []) + ([packet.destination_port] if is_destination else [])
        return any(in_range(text, value) for text in option.value.split(",") for value in values)

    return one


def _tcp_flags(option: Option, packet: Seen, _: World) -> bool | None:
    if packet.protocol != "tcp":
        return False
    if packet.state != "new":
        return None
    mask, wanted = (sum(TCP_FLAGS.get(flag, 64) for flag in text.split(",")) for text in option.values[:2])
    return mask & TCP_FLAGS["SYN"] == wanted


def _syn(_: Option, packet: Seen, __: World) -> bool | None:
    if packet.protocol != "tcp":
        return False
    return True if packet.state == "new" else None


def _icmp(protocol: str, names: dict[str, int]) -> Judge:
    def one(option: Option, packet: Seen, _: World) -> bool | None:
        if packet.protocol != protocol:
            return False
        kind, slash, code = option.value.partition("/")
        if kind in {"any", "255"}:
            return True
        wanted = int(kind) if kind.isdigit() else names.get(kind)
        if wanted is None:
            return None
        if wanted != packet.icmp_type:
            return False
        # Echoes have code 0; the code of another message is not part of the question.
        return True if not slash or (code == "0" and packet.icmp_type in {0, 8, 128, 129}) else None

    return one


def _marked(text: str, value: int | None) -> bool | None:
    if value is None:
        return None
    wanted, slash, mask = text.partition("/")
    return value & (int(mask, 0) if slash else 0xFFFFFFFF) == int(wanted, 0)


def _mark(option: Option, packet: Seen, _: World) -> bool | None:
    return _marked(option.value, packet.mark)


def _connection_mark(option: Option, packet: Seen, _: World) -> bool | None:
    return _marked(option.value, packet.ct_mark)


def ct_state(wanted: set[str], packet: Seen) -> bool | None:
    """Whether the conntrack state is one of those (lower case; dnat and snat are iptables' virtual ones)."""
    if packet.state in wanted:
        return True
    if packet.state == "untracked":
        return False
    virtual = [packet.dnat] * ("dnat" in wanted) + [packet.snat] * ("snat" in wanted)
    if any(virtual):
        return True
    # An established connection may have been translated when it began, of which this packet tells nothing.
    return None if virtual and packet.state in {"established", "related"} else False


def _ct_state(option: Option, packet: Seen, _: World) -> bool | None:
    return ct_state({word.lower() for word in option.value.split(",")}, packet)


def ct_status(wanted: set[str], packet: Seen) -> bool | None:
    """Whether one of the status bits is set, as far as a new connection's first packet has them."""
    if packet.state in {"untracked", "invalid"}:
        return False
    if packet.state != "new":
        return None
    return (packet.dnat and "dnat" in wanted) or (packet.snat and "snat" in wanted)


def _ct_status(option: Option, packet: Seen, _: World) -> bool | None:
    wanted = {word.lower() for word in option.value.split(",")}
    return None if "none" in wanted else ct_status(wanted, packet)


def _ct_direction(option: Option, packet: Seen, _: World) -> bool | None:
    return option.value.lower() == "original" if packet.state == "new" else None


def _ct_original(*, is_source: bool) -> Judge:
    def one(option: Option, packet: Seen, world: World) -> bool | None:
        if packet.state != "new":
            return None
        asked = world.asked
        return _within(option.value, packet.family, asked.source if is_source else asked.destination)

    return one


def _ct_original_port(*, is_source: bool) -> Judge:
    def one(option: Option, packet: Seen, world: World) -> bool | None:
        if packet.state != "new":
            return None
        return in_range(option.value, world.asked.source_port if is_source else world.asked.destination_port)

    return one


def _address_type(*, is_source: bool) -> Callable[[Match, Seen, World], bool | None]:
    def one(match: Match, packet: Seen, world: World) -> bool | None:
        device = ""
        wanted: Option | None = None
        for option in match.options:
            if option.name == "limit-iface-in":
                device = packet.incoming
            elif option.name == "limit-iface-out":
                device = packet.outgoing
            elif option.name == ("src-type" if is_source else "dst-type"):
                wanted = option
        if wanted is None:
            return True
        found = world.host.address_type(packet.family, packet.source if is_source else packet.destination, device)
        kinds = {kind.lower() for kind in wanted.value.split(",")}
        if not kinds <= {"local", "unicast", "broadcast", "multicast", "anycast"}:
            return None
        return (found in kinds) != wanted.inverted

    return one


def _addrtype(match: Match, packet: Seen, world: World) -> bool | None:
    answers = [_address_type(is_source=side)(match, packet, world) for side in (True, False)]
    return False if False in answers else (None if None in answers else True)


def _set(option: Option, packet: Seen, world: World) -> bool | None:
    if len(option.values) < 2:
        return None
    return ipset.contains(world.ruleset.ipsets, option.values[0], tuple(option.values[1].split(",")), packet)


def _ip_range(*, is_source: bool) -> Judge:
    def one(option: Option, packet: Seen, _: World) -> bool:
        return _within(option.value, packet.family, packet.source if is_source else packet.destination)

    return one


def _bridged(_: Option, packet: Seen, __: World) -> bool:
    return packet.bridged


def _physical(*, is_in: bool) -> Judge:
    def one(option: Option, packet: Seen, world: World) -> bool | None:
        device = packet.bridge_in if is_in else packet.bridge_out
        if device:
            return is_device(option.value, device)
        return None if packet.bridged or (is_in and world.host.is_bridge(packet.incoming)) else False

    return one


def _has_physical_in(_: Option, packet: Seen, world: World) -> bool | None:
    return True if packet.bridge_in else (None if world.host.is_bridge(packet.incoming) else False)


def _has_physical_out(_: Option, packet: Seen, __: World) -> bool:
    return packet.bridged


def _reverse_path(match: Match, packet: Seen, world: World) -> bool | None:
    names = {option.name for option in match.options}
    if "accept-local" in names:
        return None
    holds = world.host.reverse_path(packet, loose="loose" in names, with_mark="validmark" in names)
    return holds != ("invert" in names)


def _statistic(match: Match, _: Seen, __: World) -> bool | None:
    """Chance decides, but for the probabilities that leave none."""
    for option in match.options:
        if option.name == "probability":
            share = float(option.value)
            return (share >= 1) != option.inverted if share in {0.0, 1.0} else None
        if option.name == "every" and option.value == "1":
            return True
    return None


def _recent(match: Match, _: Seen, __: World) -> bool | None:
    return True if any(option.name == "set" and not option.inverted for option in match.options) else None


def _always(_: Option, __: Seen, ___: World) -> bool:
    return True


def _packet_type(option: Option, _: Seen, __: World) -> bool:
    return option.value in {"unicast", "host"}


def _no_ipsec(match: Match, _: Seen, __: World) -> bool | None:
    return True if any(option.name == "pol" and option.value == "none" for option in match.options) else None


def _no_extension_header(_: Match, __: Seen, ___: World) -> bool:
    """Packets that are walked have none, and without it these matches never hold, inverted or not."""
    return False


def _fragment(_: Option, __: Seen, ___: World) -> bool:
    return False


def _incoming(option: Option, packet: Seen, _: World) -> bool:
    return bool(packet.incoming) and is_device(option.value, packet.incoming)


def _outgoing(option: Option, packet: Seen, _: World) -> bool:
    return bool(packet.outgoing) and is_device(option.value, packet.outgoing)


_TCP: Final = {"tcp"}
JUDGES: Final[dict[str, dict[str, Judge]]] = {
    "": {
        "source": _source, "destination": _destination, "protocol": _protocol, "in": _incoming, "out": _outgoing,
        "fragment": _fragment, "ipv4": _always, "ipv6": _always,
    },
    "tcp": {
        "sport": _port(True, False, _TCP), "dport": _port(False, True, _TCP), "tcp-flags": _tcp_flags, "syn": _syn,
    },
    "udp": {"sport": _port(True, False, {"udp"}), "dport": _port(False, True, {"udp"})},
    "sctp": {"sport": _port(True, False, {"sctp"}), "dport": _port(False, True, {"sctp"})},
    "udplite": {"sport": _port(True, False, {"udplite"}), "dport": _port(False, True, {"udplite"})},
    "icmp": {"icmp-type": _icmp("icmp", ICMP_TYPES)},
    "icmp6": {"icmpv6-type": _icmp("icmpv6", ICMP6_TYPES)},
    "multiport": {
        "sports": _port(True, False, WITH_PORTS), "dports": _port(False, True, WITH_PORTS),
        "ports": _port(True, True, WITH_PORTS),
    },
    "conntrack": {
        "ctstate": _ct_state, "ctstatus": _ct_status, "ctproto": _protocol, "ctdir": _ct_direction,
        "ctorigsrc": _ct_original(is_source=True), "ctorigdst": _ct_original(is_source=False),
        "ctorigsrcport": _ct_original_port(is_source=True), "ctorigdstport": _ct_original_port(is_source=False),
    },
    "state": {"state": _ct_state},
    "mark": {"mark": _mark},
    "connmark": {"mark": _connection_mark},
    "set": {"match-set": _set},
    "iprange": {"src-range": _ip_range(is_source=True), "dst-range": _ip_range(is_source=False)},
    "physdev": {
        "physdev-is-bridged": _bridged, "physdev-in": _physical(is_in=True), "physdev-out": _physical(is_in=False),
        "physdev-is-in": _has_physical_in, "physdev-is-out": _has_physical_out,
    },
    "comment": {"*": _always},
    "nfacct": {"nfacct-name": _always},
    "pkttype": {"pkt-type": _packet_type},
}  # fmt: skip
# Modules whose options mean something only together.
WHOLE: Final[dict[str, Callable[[Match, Seen, World], bool | None]]] = {
    "addrtype": _addrtype,
    "rpfilter": _reverse_path,
    "statistic": _statistic,
    "recent": _recent,
    "policy": _no_ipsec,
    **dict.fromkeys(("rt", "frag", "hbh", "dst", "mh"), _no_extension_header),
}


def judge_match(match: Match, packet: Seen, world: World) -> bool | None:
    """Whether a match holds, by the judge of the whole module where there is one."""
    whole = WHOLE.get(match.module)
    return whole(match, packet, world) if whole else judge(match, packet, world)
