"""Walks one packet through the rules of a host, hook by hook, as the kernel would.

Where chance decides (statistic, numgen) or a match cannot be judged, both ways are followed: the verdict is told if all
ways agree, else it is unsure, naming what it hangs on. The routing decision is the kernel's own. Sources:
nf_hook_slow(), ip_rcv(), ip_forward(), br_netfilter_hooks.c; nat chains run at the fixed priorities of nf_nat.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from agent.host.netfilter import nft_rule, virtual, xt_rule
from agent.host.netfilter.outcome import ACCEPT, DROP, GOTO, JUMP, NEXT, REJECT, RETURN, UNSURE, Outcome
from agent.host.netfilter.packet import Seen, finish, spell, start
from agent.host.netfilter.refs import Refs
from agent.host.netfilter.rules import Chain, Rule, Ruleset, Table
from agent.host.netfilter.world import Host, World
from model.facts import Packet, RouteAnswer, RouteQuery, Walk, WalkStep
from model.netfilter import RuleRef

FAMILIES: Final = {4: {"ip", "inet"}, 6: {"ip6", "inet"}}
BACKEND_ORDER: Final = {"legacy": 0, "nft_compat": 1, "nft": 2}
MOST_PATHS: Final = 512
DEEPEST: Final = 64
LOWEST, HIGHEST = -(1 << 31), (1 << 31) - 1
UNTOLD: Final = {"", "count", "return", "log", "nflog", "ct", "mangle", "set"}
IS_LOCAL: Final = {"local", "broadcast", "multicast", "anycast"}


class Step(NamedTuple):
    """A rule that was met, before it is named."""

    hook: str
    rule: Rule | RuleRef
    verdict: str
    detail: str


class Path(NamedTuple):
    """One way through. `verdict` is empty as long as it goes on; `by` the rule, or chain's policy, that ended it."""

    packet: Seen
    steps: tuple[Step, ...] = ()
    because: frozenset[str] = frozenset()
    verdict: str = ""
    by: Rule | Chain | RuleRef | None = None


class Walker:
    """Walks packets over one rule set. With `through`, what drops is noted and passed, to see all hooks on the way."""

    def __init__(self, host: Host, ruleset: Ruleset, *, through: bool = False) -> None:
        self._host = host
        self._ruleset = ruleset
        self._through = through
        self._bases = base_chains(ruleset)
        self.entered: dict[tuple[str, str, str, str, str], tuple[Chain, Table, str, set[Seen]]] = {}

    def walk(self, asked: Packet) -> list[Path]:
        """All ways of the packet, each with its verdict. Raises ValueError for a malformed address."""
        first = start(asked, incoming=asked.incoming)
        self._world = World(self._host, self._ruleset, first)
        self._answers: dict[RouteQuery, RouteAnswer] = {}
        paths = self._incoming(asked, first) if first.incoming else self._outgoing(asked, first)
        return [path if path.verdict else path._replace(verdict=ACCEPT) for path in paths]

    # -- the ways -----------------------------------------------------------------------------------------------

    def _incoming(self, asked: Packet, first: Seen) -> list[Path]:
        bridged = bool(first.bridge_in) and self._is_on(first, first.incoming)
        paths = self._hook("ingress", [Path(first)], devices=(first.incoming, first.bridge_in))
        if bridged:
            paths = self._hook("prerouting", paths, families={"bridge"})
            name = "iptables" if first.family == 4 else "ip6tables"
            if self._host.sysctls.get(f"net.bridge.bridge-nf-call-{name}") != "1":
                paths = self._hook("forward", paths, families={"bridge"})
                return self._hook("postrouting", paths, families={"bridge"})
        done: list[Path] = []
        going: dict[tuple[bool, Seen], Path] = {}
        for path in self._hook("prerouting", paths):
            if path.verdict:
                done.append(path)
                continue
            for is_local, routed in self._routed(asked, path, bridged=bridged):
                if routed.verdict:
                    done.append(routed)
                else:
                    going.setdefault((is_local, routed.packet), routed)
        local = [path for (is_local, _), path in going.items() if is_local]
        onward = [path for (is_local, _), path in going.items() if not is_local]
        ended, sent = self._with_ipvs("input", local)
        done += ended + self._leave(self._hook("output", sent, nat=False))
        return done + self._leave(self._hook("forward", onward))

    def _routed(self, asked: Packet, path: Path, *, bridged: bool) -> list[tuple[bool, Path]]:
        packet = path.packet
        if bridged and self._is_on(packet, packet.incoming):
            return [(False, path._replace(packet=packet._replace(outgoing=packet.incoming, bridged=True)))]
        if asked.outgoing and not packet.dnat:
            return [(False, path)]
        answer = self._ask(packet, packet.incoming)
        if answer.errno or answer.type in {"blackhole", "unreachable", "prohibit"}:
            return [(False, self._unroutable(path, answer))]
        if answer.type in IS_LOCAL:
            return [(True, path._replace(packet=packet._replace(outgoing="")))]
        return [(False, path._replace(packet=packet._replace(outgoing=answer.device)))]

    def _outgoing(self, asked: Packet, first: Seen) -> list[Path]:
        answer = self._ask(first, "")
        if answer.errno:
            return [self._unroutable(Path(first), answer)]
        if not first.source and answer.source:
            first = start(
                Packet(
                    family=asked.family, source=answer.source, destination=asked.destination, protocol=asked.protocol
                ),
                incoming="",
            )._replace(**{name: getattr(first, name) for name in KEPT})
        sent = first._replace(outgoing=asked.outgoing or answer.device)
        self._world = World(self._host, self._ruleset, sent)
        done: list[Path] = []
        going: list[Path] = []
        stayed, virtual_ones = self._with_ipvs("output", [Path(sent)])
        done += self._leave(self._hook("output", virtual_ones, nat=False))
        for path in stayed:
            if path.verdict:
                done.append(path)
                continue
            packet = path.packet
            if (packet.destination, packet.mark, packet.source) != (sent.destination, sent.mark, sent.source):
                answer = self._ask(packet, "")
                if answer.errno:
                    done.append(self._unroutable(path, answer))
                    continue
                path = path._replace(packet=packet._replace(outgoing=answer.device))  # noqa: PLW2901
            going.append(path)
        for path in self._leave(going):
            if path.verdict or path.packet.outgoing != "lo":
                done.append(path)
            else:
                back = path._replace(packet=path.packet._replace(incoming="lo", outgoing=""))
                done += self._hook("input", self._hook("prerouting", [back], nat=False), nat=False)
        return done

    def _leave(self, paths: list[Path]) -> list[Path]:
        left = self._hook("postrouting", paths)
        devices = tuple({path.packet.outgoing for path in left})
        return self._hook("egress", left, devices=devices)

    def _with_ipvs(self, hook: str, paths: list[Path]) -> tuple[list[Path], list[Path]]:
        """A hook with IPVS at its place in it: the paths that it leaves alone, or ends, and those it sends on."""
        if not self._host.ipvs:
            return self._hook(hook, paths), []
        place = virtual.PLACES[hook]
        alone: list[Path] = []
        ended: list[Path] = []
        sent: list[Path] = []
        owner = "kube-proxy" if any(link.name == virtual.PROXY_DEVICE for link in self._host.links) else ""
        tracked = self._host.sysctls.get("net.ipv4.vs.conntrack") == "1"
        for path in self._hook(hook, paths, last=place):
            service = None if path.verdict else virtual.find(self._host.ipvs, path.packet)
            if service is None:
                alone.append(path)
                continue
            for one in virtual.send(service, path.packet, self._query, owner=owner, tracked=tracked):
                verdict = REJECT if one.rejected else UNSURE if one.unsure else ""
                after = path._replace(
                    packet=one.packet, verdict=verdict, by=one.rule if one.rejected else None,
                    because=path.because | ({one.unsure} if one.unsure else set()),
                    steps=(*path.steps, Step(hook, one.rule, "reject" if one.rejected else "dnat", one.detail)),
                )  # fmt: skip
                (ended if verdict else alone if one.local else sent).append(after)
        return self._hook(hook, _merged(alone), first=place + 1) + ended, _merged(sent)

    def _is_on(self, packet: Seen, device: str) -> bool:
        """Whether the destination is a neighbour on that device."""
        found = self._query(RouteQuery(destination=spell(packet.family, packet.destination)))
        return not found.errno and found.device == device and not found.gateway and found.type not in IS_LOCAL

    def _ask(self, packet: Seen, incoming: str) -> RouteAnswer:
        return self._query(
            RouteQuery(
                destination=spell(packet.family, packet.destination),
                source=spell(packet.family, packet.source) if packet.source else "",
                incoming=incoming,
                mark=packet.mark or 0,
            )
        )

    def _query(self, query: RouteQuery) -> RouteAnswer:
        if query not in self._answers:
            self._answers[query] = self._host.ask(query)
        return self._answers[query]

    def _unroutable(self, path: Path, answer: RouteAnswer) -> Path:
        """The routing decision ends the packet: forwarded ones vanish, a local sender is told at once."""
        name = errno.errorcode.get(answer.errno, "") if answer.errno else answer.type
        text = (
            f"route get {answer.query.destination}: {name} {os.strerror(answer.errno) if answer.errno else ''}".strip()
        )
        reference = RuleRef(backend="route", family=path.packet.family, table="", chain="", position=0, text=text)
        return path._replace(verdict=DROP if path.packet.incoming else REJECT, by=reference)

    # -- hooks and chains ---------------------------------------------------------------------------------------

    def _hook(
        self, hook: str, paths: list[Path], *, families: set[str] | None = None, devices: Iterable[str] = (),
        nat: bool = True, first: int = LOWEST, last: int = HIGHEST,
    ) -> list[Path]:  # fmt: skip
        for chain, table in self._bases.get(hook, ()):
            if not first <= priority_of(chain) <= last:
                continue
            if not any(not path.verdict for path in paths):
                break
            if chain.devices and not set(chain.devices) & set(devices):
                continue
            after: list[Path] = []
            for path in paths:
                if path.verdict or not self._passes(chain, path.packet, families, nat=nat):
                    after.append(path)
                else:
                    after += self._base(chain, table, hook, path)
            paths = _merged(after)
        return paths

    def _passes(self, chain: Chain, packet: Seen, families: set[str] | None, *, nat: bool) -> bool:
        is_of_device = chain.hook in {"ingress", "egress"}
        if chain.family not in (families or FAMILIES[packet.family]) and not (
            is_of_device and chain.family == "netdev"
        ):
            return False
        if chain.kind != "nat":
            return True
        if not nat or packet.state != "new":
            return False
        return not (packet.snat if chain.hook in {"postrouting", "input"} else packet.dnat)

    def _base(self, chain: Chain, table: Table, hook: str, path: Path) -> list[Path]:
        key = (chain.backend, chain.family, chain.table, chain.name, hook)
        self.entered.setdefault(key, (chain, table, hook, set()))[3].add(path.packet)
        returned, done = self._chain(chain, table, hook, [path], 0)
        # Accepting ends this chain, not the packet's walk: the next base chain is asked too.
        after = [one._replace(verdict="", by=None) if one.verdict == ACCEPT or self._through else one for one in done]
        for one in returned:
            is_end = chain.policy == DROP and not self._through
            after.append(one._replace(verdict=DROP, by=chain) if is_end else one)
        return after

    def _chain(
        self, chain: Chain, table: Table, hook: str, paths: list[Path], depth: int
    ) -> tuple[list[Path], list[Path]]:
        """The paths that come out at the chain's end, and those that a verdict ended."""
        returned: list[Path] = []
        done: list[Path] = []
        if depth > DEEPEST:
            return [], [path._replace(verdict=UNSURE, because=path.because | {"chains without end"}) for path in paths]
        for rule in chain.rules:
            following: list[Path] = []
            for path in paths:
                for outcome in self._evaluate(rule, table, path.packet):
                    after = _stepped(path, outcome, hook, rule)
                    if outcome.flow == NEXT:
                        following.append(after)
                    elif outcome.flow == RETURN:
                        returned.append(after)
                    elif outcome.flow in {JUMP, GOTO}:
                        back, ended = self._jump(outcome.chain, table, hook, after, depth)
                        done += ended
                        (following if outcome.flow == JUMP else returned).extend(back)
                    else:
                        done.append(after._replace(verdict=outcome.flow, by=rule))
            paths = following if len(following) < 2 else _merged(following)
            if not paths:
                break
        return _merged([*paths, *returned]), _merged(done)

    def _jump(self, name: str, table: Table, hook: str, path: Path, depth: int) -> tuple[list[Path], list[Path]]:
        chain = table.chains.get(name)
        if chain is None:
            # A target that is no chain is an extension of iptables that is not known here.
            return [], [path._replace(verdict=UNSURE, because=path.because | {name})]
        return self._chain(chain, table, hook, [path], depth + 1)

    def _evaluate(self, rule: Rule, table: Table, packet: Seen) -> list[Outcome]:
        if rule.expressions is not None:
            return nft_rule.evaluate(rule, packet, self._world, table.sets)
        return xt_rule.evaluate(rule, packet, self._world)


KEPT: Final = ("source_port", "destination_port", "icmp_type", "mark", "state", "ct_mark")


def priority_of(chain: Chain) -> int:
    """Where a base chain stands in its hook: nat chains are asked where nf_nat stands, whatever they say."""
    if chain.kind == "nat":
        return 100 if chain.hook in {"postrouting", "input"} else -100
    return chain.priority


def base_chains(ruleset: Ruleset) -> dict[str, list[tuple[Chain, Table]]]:
    """Base chains by hook, in the order in which the kernel asks them."""
    found: dict[str, list[tuple[tuple[int, int, int], Chain, Table]]] = {}
    for table in ruleset.tables:
        for chain in table.chains.values():
            if chain.hook:
                order = (priority_of(chain), chain.priority, BACKEND_ORDER[chain.backend])
                found.setdefault(chain.hook, []).append((order, chain, table))
    return {
        hook: [(chain, table) for _, chain, table in sorted(entries, key=lambda entry: entry[0])]
        for hook, entries in found.items()
    }


def _stepped(path: Path, outcome: Outcome, hook: str, rule: Rule) -> Path:
    steps = path.steps
    if outcome.verdict not in UNTOLD:
        steps = (*steps, Step(hook, rule, outcome.verdict, outcome.detail))
    because = path.because.union(outcome.because) if outcome.because else path.because
    return Path(outcome.packet, steps, because, path.verdict, path.by)


def _merged(paths: list[Path]) -> list[Path]:
    """Ways that came to the same: what told them apart did not matter."""
    if len(paths) < 2:
        return paths
    found: dict[tuple[Seen, str], Path] = {}
    for path in paths:
        key = (path.packet, path.verdict)
        known = found.get(key)
        found[key] = path if known is None else known._replace(because=known.because & path.because)
    if len(found) > MOST_PATHS:
        some = list(found.values())[:MOST_PATHS]
        return [path._replace(verdict=UNSURE, because=path.because | {"too many alternatives"}) for path in some]
    return list(found.values())


def conclude(asked: Packet, paths: list[Path], refs: Refs, unread: tuple[str, ...] = ()) -> Walk:
    """The answer over all ways. `unread` names backends that could not be read: then nothing passes for sure."""
    verdicts = {path.verdict for path in paths}
    first = paths[0]
    verdict, unsure = first.verdict, frozenset(unread if first.verdict == ACCEPT else ())
    if UNSURE in verdicts or (len(verdicts) > 1 and not verdicts <= {DROP, REJECT}):
        unsure = frozenset().union(unsure, *(path.because for path in paths))
    if unsure:
        verdict = UNSURE
    through = [path for path in paths if path.verdict == ACCEPT] or paths
    alternatives = tuple(dict.fromkeys(finish(asked, path.packet) for path in through))
    return Walk(
        asked=asked,
        verdict=verdict,
        packet=finish(asked, first.packet),
        decided_by=_named(first, refs) if verdict in {DROP, REJECT} else None,
        steps=tuple(
            WalkStep(
                hook=step.hook,
                rule=step.rule if isinstance(step.rule, RuleRef) else refs.rule(step.rule, asked.family),
                verdict=step.verdict,
                detail=step.detail,
            )
            for step in first.steps
        ),
        unsure=tuple(sorted(unsure)),
        alternatives=alternatives if len(alternatives) > 1 else (),
    )


def _named(path: Path, refs: Refs) -> RuleRef | None:
    if isinstance(path.by, Rule):
        named = refs.rule(path.by, path.packet.family)
        if named.target or named.owner != "kube-proxy":
            return named
        # kube-proxy's nftables rules share one chain that rejects; the map's element on the way names the Service.
        told = next((step.detail.partition(" # ")[2] for step in reversed(path.steps) if " # " in step.detail), "")
        return msgspec.structs.replace(named, target=f"Service {told}") if told else named
    if isinstance(path.by, Chain):
        return refs.policy(path.by, path.packet.family)
    return path.by
