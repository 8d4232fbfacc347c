"""One iptables rule on one packet: its matches, then its target.

A target that is not known makes the walk unsure from there on, if it may be the packet's end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from agent.host.netfilter.outcome import (
    ACCEPT,
    DROP,
    GOTO,
    JUMP,
    NEXT,
    REJECT,
    RETURN,
    UNSURE,
    Outcome,
    passed_by,
)  # fmt: skip
from agent.host.netfilter.packet import WITH_PORTS, Seen, network, spell
from agent.host.netfilter.rules import Rule
from agent.host.netfilter.world import World
from agent.host.netfilter.xt_matches import judge_match
from agent.host.netfilter.xtables import Option, Parsed, parse

MOST_ADDRESSES: Final = 16
# What these do, no later rule and no route can see.
WITHOUT_EFFECT: Final = {
    "", "LOG", "NFLOG", "ULOG", "AUDIT", "CLASSIFY", "TCPMSS", "CHECKSUM", "TRACE", "SECMARK", "CONNSECMARK", "TEE",
    "RATEEST", "IDLETIMER", "LED", "SET", "TTL", "HL", "DSCP", "TOS", "ECN", "TCPOPTSTRIP", "NFACCT", "ACCOUNT",
}  # fmt: skip
FINAL: Final = {"ACCEPT": ACCEPT, "DROP": DROP, "REJECT": REJECT}


def evaluate(rule: Rule, packet: Seen, world: World) -> list[Outcome]:
    """All that may come of the rule."""
    parsed = parse(rule.text)
    unsure: list[str] = []
    for match in parsed.matches:
        holds = judge_match(match, packet, world)
        if holds is False:
            return [passed_by(packet)]
        if holds is None:
            unsure.append(match.module or "general")
    if unsure and parsed.target in WITHOUT_EFFECT:
        return [passed_by(packet)]
    because = tuple(unsure)
    taken = [outcome._replace(because=because + outcome.because) for outcome in _target(parsed, packet, world)]
    return [*taken, passed_by(packet, because)] if because else taken


def matches(rule: Rule, packet: Seen, world: World) -> bool | None:
    """Whether the rule's own matches hold."""
    answer: bool | None = True
    for match in parse(rule.text).matches:
        holds = judge_match(match, packet, world)
        if holds is False:
            return False
        if holds is None:
            answer = None
    return answer


def final_verdict(rule: Rule) -> str:
    """The rule's target as "drop" or "reject", else ""."""
    found = FINAL.get(parse(rule.text).target, "")
    return found if found != ACCEPT else ""


def jumps(rule: Rule) -> tuple[str, ...]:
    """The chains that the rule may go to."""
    parsed = parse(rule.text)
    known = parsed.target in FINAL or parsed.target in WITHOUT_EFFECT or parsed.target in TARGETS
    return () if known else (parsed.target,)


def _target(parsed: Parsed, packet: Seen, world: World) -> Iterator[Outcome]:
    if parsed.target in FINAL:
        flow = FINAL[parsed.target]
        yield Outcome(flow, packet, flow, detail=_value(parsed, "reject-with"))
    elif parsed.target in WITHOUT_EFFECT:
        yield Outcome(NEXT, packet, parsed.target.lower() or "count")
    elif parsed.target in TARGETS:
        yield from TARGETS[parsed.target](parsed, packet, world)
    else:
        flow = GOTO if parsed.is_goto else JUMP
        yield Outcome(flow, packet, flow, chain=parsed.target, detail=parsed.target)


def _value(parsed: Parsed, *names: str) -> str:
    return next((option.value for option in parsed.options if option.name in names), "")


def _return(_: Parsed, packet: Seen, __: World) -> Iterator[Outcome]:
    yield Outcome(RETURN, packet, "return")


def _unsure(parsed: Parsed, packet: Seen, _: World) -> Iterator[Outcome]:
    yield Outcome(UNSURE, packet, parsed.target.lower(), because=(parsed.target,))


def _masked(text: str, current: int | None, *, exclusive: bool = True) -> int | None:
    """`value/mask` put into a mark: bits of the mask cleared, then the value's flipped in (xset) or set."""
    wanted, slash, mask = text.partition("/")
    value, bits = int(wanted, 0), int(mask, 0) if slash else 0xFFFFFFFF
    if current is None:
        return value if bits == 0xFFFFFFFF else None
    kept = current & ~bits & 0xFFFFFFFF
    return kept ^ value if exclusive else kept | value


def _changed(option: Option, current: int | None) -> int | None:
    changes: dict[str, Callable[[int, int], int]] = {
        "and-mark": lambda old, new: old & new,
        "or-mark": lambda old, new: old | new,
        "xor-mark": lambda old, new: old ^ new,
    }
    if option.name in {"set-xmark", "set-mark"}:
        return _masked(option.value, current, exclusive=option.name == "set-xmark")
    if option.name in changes and current is not None:
        return changes[option.name](current, int(option.value, 0))
    return None


def _mark(parsed: Parsed, packet: Seen, _: World) -> Iterator[Outcome]:
    mark = _changed(parsed.options[0], packet.mark) if parsed.options else None
    yield Outcome(NEXT, packet._replace(mark=mark), "mark", detail="unknown" if mark is None else f"{mark:#x}")


def _connection_mark(parsed: Parsed, packet: Seen, _: World) -> Iterator[Outcome]:
    names = {option.name for option in parsed.options}
    of_packet = int(_value(parsed, "nfmask", "mask") or "0xffffffff", 0)
    of_connection = int(_value(parsed, "ctmask", "mask") or "0xffffffff", 0)
    if "save-mark" in names:
        known = packet.mark is not None and packet.ct_mark is not None
        mark = ((packet.ct_mark or 0) & ~of_connection) ^ ((packet.mark or 0) & of_packet) if known else None
        yield Outcome(NEXT, packet._replace(ct_mark=mark), "connmark")
    elif "restore-mark" in names:
        known = packet.mark is not None and packet.ct_mark is not None
        mark = ((packet.mark or 0) & ~of_packet) ^ ((packet.ct_mark or 0) & of_connection) if known else None
        yield Outcome(NEXT, packet._replace(mark=mark), "mark")
    else:
        mark = _changed(parsed.options[0], packet.ct_mark) if parsed.options else None
        yield Outcome(NEXT, packet._replace(ct_mark=mark), "connmark")


def _untrack(_: Parsed, packet: Seen, __: World) -> Iterator[Outcome]:
    yield Outcome(NEXT, packet._replace(state="untracked"), "notrack")


def _connection(parsed: Parsed, packet: Seen, world: World) -> Iterator[Outcome]:
    if any(option.name == "notrack" for option in parsed.options):
        yield from _untrack(parsed, packet, world)
    else:
        yield Outcome(NEXT, packet, "ct")


def endpoints(text: str, family: int) -> tuple[list[int], str]:
    """Addresses and ports of "a[-b][:p[-q]]" or "[a]:p"; addresses empty if none is named or if they are too many."""
    address, ports = text, ""
    if text.startswith("["):
        address, _, ports = text[1:].partition("]")
        ports = ports.lstrip(":")
    elif family == 4 or text.count(":") == 1:
        address, _, ports = text.partition(":")
    if not address:
        return [], ports
    first, last, _ = network(address)
    return list(range(first, min(last, first + MOST_ADDRESSES) + 1)), ports


def translations(packet: Seen, text: str, *, is_source: bool, because: tuple[str, ...] = ()) -> Iterator[Outcome]:
    """The packet with its source or destination translated; one outcome for each address of the range."""
    found, ports = endpoints(text, packet.family)
    verdict = "snat" if is_source else "dnat"
    if len(found) > MOST_ADDRESSES:
        yield Outcome(UNSURE, packet, verdict, because=(f"{verdict} to {text}",))
        return
    for address in found or [packet.source if is_source else packet.destination]:
        port = int(ports.partition("-")[0].partition("/")[0]) if ports and packet.protocol in WITH_PORTS else 0
        if is_source:
            changed = packet._replace(source=address, source_port=port or packet.source_port, snat=True)
        else:
            changed = packet._replace(destination=address, destination_port=port or packet.destination_port, dnat=True)
        yield Outcome(ACCEPT, changed, verdict, detail=text or spell(packet.family, address), because=because)


def masqueraded(packet: Seen, world: World, detail: str = "") -> Outcome:
    """The packet with an address of its outgoing device as its source."""
    address = world.host.own_address(packet.family, packet.outgoing)
    source = packet.source if address is None else address
    text = detail or spell(packet.family, source)
    return Outcome(ACCEPT, packet._replace(source=source, snat=True), "masquerade", detail=text)


def redirected(packet: Seen, world: World, port: int) -> Outcome:
    """The packet sent to this host itself: the incoming device's address, or loopback if it was sent from here."""
    loopback = 0x7F000001 if packet.family == 4 else 1
    address = world.host.own_address(packet.family, packet.incoming) if packet.incoming else loopback
    changed = packet._replace(
        destination=packet.destination if address is None else address,
        destination_port=port or packet.destination_port,
        dnat=True,
    )
    return Outcome(ACCEPT, changed, "redirect", detail=f":{port}" if port else "")


def _dnat(parsed: Parsed, packet: Seen, _: World) -> Iterator[Outcome]:
    yield from translations(packet, _value(parsed, "to-destination"), is_source=False)


def _snat(parsed: Parsed, packet: Seen, _: World) -> Iterator[Outcome]:
    yield from translations(packet, _value(parsed, "to-source"), is_source=True)


def _masquerade(_: Parsed, packet: Seen, world: World) -> Iterator[Outcome]:
    yield masqueraded(packet, world)


def _redirect(parsed: Parsed, packet: Seen, world: World) -> Iterator[Outcome]:
    yield redirected(packet, world, int(_value(parsed, "to-ports").partition("-")[0] or 0))


TARGETS: Final[dict[str, Callable[[Parsed, Seen, World], Iterator[Outcome]]]] = {
    "RETURN": _return, "MARK": _mark, "CONNMARK": _connection_mark, "NOTRACK": _untrack, "CT": _connection,
    "DNAT": _dnat, "SNAT": _snat, "MASQUERADE": _masquerade, "REDIRECT": _redirect, "QUEUE": _unsure,
    "NFQUEUE": _unsure, "TPROXY": _unsure, "SYNPROXY": _unsure, "NETMAP": _unsure, "HMARK": _unsure,
    "CLUSTERIP": _unsure, "SNPT": _unsure, "DNPT": _unsure,
}  # fmt: skip
