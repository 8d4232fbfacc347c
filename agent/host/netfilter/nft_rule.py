"""One native nftables rule on one packet: its expressions from left to right.

An expression that is not known makes what follows it unsure; it never drops. Source: nft(8), libnftables-json(5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from agent.host.netfilter.nft_values import (
    Absent,
    Chance,
    Unknown,
    Value,
    entries,
    is_any,
    is_equal,
    literal,
    value_of,
)  # fmt: skip
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
from agent.host.netfilter.packet import Seen, network, spell
from agent.host.netfilter.rules import Expression, NamedSet, Rule
from agent.host.netfilter.world import World
from agent.host.netfilter.xt_matches import ct_status
from agent.host.netfilter.xt_rule import masqueraded, redirected, translations

Sets = dict[str, NamedSet]
HARMLESS: Final = {
    "counter", "log", "set", "flow", "ct helper", "ct timeout", "ct expectation", "last", "continue", "dup",
    "secmark", "meter", "comment",
}  # fmt: skip
VERDICTS: Final = {"accept": ACCEPT, "drop": DROP, "reject": REJECT, "return": RETURN}
# Compared as flags: any common bit is a match.
COMPARE: Final[dict[str, Callable[[int, int], bool]]] = {
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
    "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
}


def evaluate(rule: Rule, packet: Seen, world: World, sets: Sets) -> list[Outcome]:
    """All that may come of the rule."""
    return list(_run(rule.expressions or (), packet, world, sets, ()))


def matches(rule: Rule, packet: Seen, world: World, sets: Sets) -> bool | None:
    """Whether the rule's own matches hold, up to its verdict."""
    answer: bool | None = True
    for expression in rule.expressions or ():
        kind, inner = next(iter(expression.items()))
        holds = _holds(kind, inner, packet, world, sets)
        if holds is False:
            return False
        if holds is None:
            answer = None
    return answer


def final_verdict(rule: Rule) -> str:
    """The rule's own "drop" or "reject", else ""."""
    for expression in rule.expressions or ():
        if "drop" in expression or "reject" in expression:
            return next(iter(expression))
    return ""


def mapped_verdicts(rule: Rule, packet: Seen, world: World, sets: Sets) -> Iterator[tuple[str, str, bool]]:
    """What the rule's verdict maps may give for the packet: kind, target chain, whether that is sure."""
    for expression in rule.expressions or ():
        kind, inner = next(iter(expression.items()))
        if kind == "vmap":
            value = value_of(inner["key"], packet, world)
            if not _is_absent(value):
                for result, sure, _ in entries(value, _elements(inner["data"], sets)):
                    verdict, to = next(iter(result.items()))
                    yield verdict, (to or {}).get("target", ""), sure
        elif kind in {"jump", "goto"}:
            yield kind, inner["target"], True


def _is_absent(value: Value) -> bool:
    return isinstance(value, Absent) or (isinstance(value, tuple) and any(_is_absent(part) for part in value))


def _elements(data: Any, sets: Sets) -> list[Any]:
    if isinstance(data, str) and data.startswith("@"):
        named = sets.get(data[1:])
        return named.elements if named else []
    return list(data["set"]) if isinstance(data, dict) and "set" in data else [data]


def _holds(kind: str, inner: Any, packet: Seen, world: World, sets: Sets) -> bool | None:
    """Whether an expression that is a match holds; True for one that is none."""
    if kind == "match":
        try:
            return _match(inner, packet, world, sets)
        except (ValueError, KeyError, TypeError):
            return None
    if kind == "xt":
        return True if inner.get("name") == "comment" else None
    if kind == "vmap":
        return True
    return True if kind in HARMLESS or kind in VERDICTS or kind in STATEMENTS or kind in {"jump", "goto"} else None


def _match(inner: dict[str, Any], packet: Seen, world: World, sets: Sets) -> bool | None:
    left, right, operator = inner["left"], inner["right"], inner.get("op", "==")
    if isinstance(left, dict) and left.get("ct", {}).get("key") == "status":
        return _status(operator, right, packet)
    value = value_of(left, packet, world)
    if _is_absent(value):
        return False
    if operator in COMPARE:
        other = literal(right)
        return COMPARE[operator](value, other) if isinstance(value, int) and isinstance(other, int) else None
    if isinstance(right, str) and right.startswith("@"):
        holds = is_any(value, _elements(right, sets)) if right[1:] in sets else None
    elif operator in {"in", "!"}:
        wanted = right if isinstance(right, list) else [right]
        if isinstance(value, int):
            bits = [_bit(word) for word in wanted]
            return None if None in bits else any(value & (bit or 0) for bit in bits) != (operator == "!")
        holds = is_any(value, wanted)
    else:
        holds = is_equal(value, right)
        if isinstance(right, list) and isinstance(value, str):
            holds = None
    if holds is None:
        return None
    return not holds if operator in {"!=", "!"} else holds


def _status(operator: str, right: Any, packet: Seen) -> bool | None:
    """Ct status: `in` and `!` look at bits; `==` and `!=` at the whole word, which no tracked packet has so bare.

    A translated connection has IPS_DST_NAT_DONE beside IPS_DST_NAT, so that `ct status != dnat` holds for it too.
    """
    words = set(right if isinstance(right, list) else [right]) if isinstance(right, list | str) else set()
    if operator in {"==", "!="} and words <= {"dnat", "snat"} and words:
        return False if packet.state in {"untracked", "invalid"} else operator == "!="
    if operator not in {"in", "!"} or not words:
        return None
    holds = ct_status(words, packet)
    return None if holds is None else holds != (operator == "!")


def _bit(word: Any) -> int | None:
    found = is_equal(2, word)
    return word if isinstance(word, int) else (2 if found else (0 if found is False else None))


def _run(
    expressions: tuple[Expression, ...], packet: Seen, world: World, sets: Sets, because: tuple[str, ...]
) -> Iterator[Outcome]:
    """Runs the expressions; forks where one may hold or not."""
    for at, expression in enumerate(expressions):
        kind, inner = next(iter(expression.items()))
        if kind in VERDICTS:
            verdict = VERDICTS[kind]
            yield Outcome(verdict, packet, verdict, detail=_reject_detail(inner), because=because)
            return
        if kind in {"jump", "goto"}:
            yield Outcome(GOTO if kind == "goto" else JUMP, packet, kind, inner["target"], inner["target"], because)
            return
        if kind == "vmap":
            rest = expressions[at + 1 :]
            yield from _verdict_map(inner, packet, world, sets, because, rest)
            return
        if kind in STATEMENTS:
            for outcome in STATEMENTS[kind](inner, packet, world, sets):
                told = outcome._replace(because=because + outcome.because)
                if outcome.flow == NEXT:
                    rest_of = _run(expressions[at + 1 :], outcome.packet, world, sets, told.because)
                    yield from _with_verdict(rest_of, told)
                else:
                    yield told
            return
        holds = _holds(kind, inner, packet, world, sets)
        if holds is False:
            yield passed_by(packet, because)
            return
        if holds is None and not _is_harmless(expressions[at + 1 :]):
            name = _name(kind, inner, packet, world)
            yield passed_by(packet, (*because, name))
            because = (*because, name)
    yield Outcome(NEXT, packet, "count", because=because)


def _with_verdict(rest: Iterator[Outcome], told: Outcome) -> Iterator[Outcome]:
    for outcome in rest:
        is_plain = outcome.flow == NEXT and outcome.verdict in {"", "count"}
        yield outcome._replace(verdict=told.verdict, detail=told.detail) if is_plain else outcome


def _is_harmless(rest: tuple[Expression, ...]) -> bool:
    return all(next(iter(expression)) in HARMLESS for expression in rest)


def _name(kind: str, inner: Any, packet: Seen, world: World) -> str:
    if kind == "match":
        try:
            value = value_of(inner["left"], packet, world)
        except (ValueError, KeyError, TypeError):
            return "match"
        parts = value if isinstance(value, tuple) else (value,)
        names = [part.name for part in parts if isinstance(part, Unknown)]
        return ", ".join(names) or ("numgen" if isinstance(value, Chance) else "match")
    return f"xt {inner.get('name', '')}" if kind == "xt" else kind


def _reject_detail(inner: Any) -> str:
    return " ".join(str(part) for part in inner.values()) if isinstance(inner, dict) else ""


def _verdict_map(
    inner: Any, packet: Seen, world: World, sets: Sets, because: tuple[str, ...], rest: tuple[Expression, ...]
) -> Iterator[Outcome]:
    value = value_of(inner["key"], packet, world)
    if _is_absent(value):
        yield passed_by(packet, because)
        return
    is_settled = False
    for result, sure, comment in entries(value, _elements(inner["data"], sets)):
        is_settled = is_settled or sure or isinstance(value, Chance)
        reasons = because if sure else (*because, "numgen" if isinstance(value, Chance) else "vmap")
        for outcome in _run((result, *rest), packet, world, sets, reasons):
            yield outcome._replace(detail=f"{outcome.detail} # {comment}") if comment else outcome
    if not is_settled:
        yield passed_by(packet, because)


def _mangle(inner: Any, packet: Seen, world: World, _: Sets) -> Iterator[Outcome]:
    key = inner["key"]
    name = next(((kind, part.get("key")) for kind, part in key.items() if isinstance(part, dict)), ("", ""))
    if name not in {("meta", "mark"), ("ct", "mark")}:
        yield Outcome(NEXT, packet, "mangle")
        return
    value = value_of(inner["value"], packet, world)
    mark = value if isinstance(value, int) else None
    detail = "unknown" if mark is None else f"{mark:#x}"
    if name[0] == "meta":
        yield Outcome(NEXT, packet._replace(mark=mark), "mark", detail=detail)
    else:
        yield Outcome(NEXT, packet._replace(ct_mark=mark), "connmark", detail=detail)


def _translate(inner: Any, packet: Seen, world: World, sets: Sets, *, is_source: bool) -> Iterator[Outcome]:
    verdict = "snat" if is_source else "dnat"
    inner = inner or {}
    if inner.get("family", "ip" if packet.family == 4 else "ip6") != ("ip" if packet.family == 4 else "ip6"):
        yield passed_by(packet)
        return
    port = inner.get("port", "")
    if isinstance(port, dict):
        port = port["range"][0] if "range" in port else None
    for address, sure in _addresses(inner.get("addr", ""), packet, world, sets):
        reasons = () if sure else ("numgen",)
        found, its_port = address, port
        if isinstance(found, dict) and "concat" in found:
            found, its_port = found["concat"][0], found["concat"][1]
        if isinstance(found, dict) and "range" in found:
            found = "-".join(found["range"])
        elif isinstance(found, dict) and "prefix" in found and "prefix" not in inner.get("flags", ()):
            # nft prints a range that happens to be a network so.
            first, last, _ = network(f"{found['prefix']['addr']}/{found['prefix']['len']}")
            found = f"{spell(packet.family, first)}-{spell(packet.family, last)}"
        if not isinstance(found, str) or its_port is None:
            yield Outcome(UNSURE, packet, verdict, because=(verdict,))
            continue
        text = f"[{found}]" if ":" in found else found
        yield from translations(
            packet, f"{text}:{its_port}" if its_port else text, is_source=is_source, because=reasons
        )


def _addresses(address: Any, packet: Seen, world: World, sets: Sets) -> Iterator[tuple[Any, bool]]:
    if not (isinstance(address, dict) and "map" in address):
        yield address, True
        return
    value = value_of(address["map"]["key"], packet, world)
    if _is_absent(value):
        return
    for result, sure, _ in entries(value, _elements(address["map"]["data"], sets)):
        yield result, sure


def _nat(inner: Any, packet: Seen, world: World, sets: Sets, *, is_source: bool) -> Iterator[Outcome]:
    found = list(_translate(inner, packet, world, sets, is_source=is_source))
    # A map without an entry for this packet ends the rule.
    yield from found or [passed_by(packet)]


def _dnat(inner: Any, packet: Seen, world: World, sets: Sets) -> Iterator[Outcome]:
    yield from _nat(inner, packet, world, sets, is_source=False)


def _snat(inner: Any, packet: Seen, world: World, sets: Sets) -> Iterator[Outcome]:
    yield from _nat(inner, packet, world, sets, is_source=True)


def _masquerade(_: Any, packet: Seen, world: World, __: Sets) -> Iterator[Outcome]:
    yield masqueraded(packet, world, spell(packet.family, packet.source))


def _redirect(inner: Any, packet: Seen, world: World, _: Sets) -> Iterator[Outcome]:
    port = (inner or {}).get("port", 0)
    yield redirected(packet, world, port if isinstance(port, int) else 0)


def _untrack(_: Any, packet: Seen, __: World, ___: Sets) -> Iterator[Outcome]:
    yield Outcome(NEXT, packet._replace(state="untracked"), "notrack")


def _queue(_: Any, packet: Seen, __: World, ___: Sets) -> Iterator[Outcome]:
    yield Outcome(UNSURE, packet, "queue", because=("queue",))


STATEMENTS: Final[dict[str, Callable[[Any, Seen, World, Sets], Iterator[Outcome]]]] = {
    "mangle": _mangle, "dnat": _dnat, "snat": _snat, "masquerade": _masquerade, "redirect": _redirect,
    "notrack": _untrack, "queue": _queue, "tproxy": _queue, "synproxy": _queue, "fwd": _queue,
}  # fmt: skip
