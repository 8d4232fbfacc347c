"""Rules of the packet filter by name, and what the kernel itself tells of the rules that take a packet.

Part of the facts (`model.facts`): a host tells, the controller judges.
"""

from __future__ import annotations

import msgspec


class RuleRef(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One netfilter rule, named as its own tool names it.

    `backend` is legacy, nft_compat (iptables-nft) or nft (native); `position` counts from 1 in its chain; `handle` is
    nftables' own (0 for legacy); `owner` is kube-proxy, calico, flannel, kube-router, kubelet, … or administrator;
    `target` what the rule serves, where its name or comment tells ("NetworkPolicy pay/deny-all", "Service
    shop/cart:http").
    `text` is the rule as the tool prints it. `delete_command` removes exactly this rule. A chain's policy has
    position 0.
    """

    backend: str
    family: int
    table: str
    chain: str
    position: int
    text: str
    handle: int = 0
    packets: int = 0
    bytes: int = 0
    owner: str = ""
    target: str = ""
    delete_command: str = ""


class TracedFlow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Packets as they reach the host that is asked, before it translates them.

    `protocol` is tcp, udp, icmp or icmpv6. An empty `source` and a port 0 are any; `source_port` is the echo identifier
    for icmp and icmpv6, of requests and replies alike.
    """

    family: int
    source: str
    destination: str
    protocol: str
    source_port: int = 0
    destination_port: int = 0


class RuleTraceQuery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Let the kernel tell which rules take the packets of these flows for `duration_ms`: one flow, under each name that
    it may arrive with (a Service's address, a backend's, the reply). At most `packets` are told of.
    """

    flows: tuple[TracedFlow, ...]
    packets: int = 20
    duration_ms: int = 1500


class TraceStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A rule (or, at position 0, a policy) that took `packets` of the traced packets, and what it did with them.

    `verdict` is accept, drop, reject, queue, stolen, continue, return, "jump CHAIN", "goto CHAIN", or the target's own
    word (dnat, snat, masquerade, mark, …). `how` is nft-trace, legacy-trace or counters.
    """

    hook: str
    rule: RuleRef
    verdict: str
    packets: int
    how: str


class TraceEnd(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How `packets` of the traced packets ended on this host.

    | verdict | hook | means |
    |---|---|---|
    | accept | postrouting, input | left the host; was handed to a local socket |
    | drop, reject, queue, stolen | where | by `rule` |
    | lost | routing | between two hooks: no route, forwarding off, rp_filter, … |
    | lost | another | inside that hook by something that names no rule |
    """

    verdict: str
    hook: str
    packets: int
    rule: RuleRef | None = None
    how: str = ""


class HookPassage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How many of the traced packets came to a hook and left it, and as what ("SOURCE:PORT>DESTINATION:PORT").

    Two names of one packet differ where it was translated in between.
    """

    hook: str
    entered: int = 0
    left: int = 0
    entered_as: str = ""
    left_as: str = ""


class RuleTrace(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the kernel told. `seen` packets of the flows came here, `traced` of them are told of.

    `how` names the witnesses (nft-trace, legacy-trace, counters), none if there was none; `missing` says why a better
    one was not to be had. `ends` has the losses first, the most frequent first.
    """

    how: tuple[str, ...] = ()
    seen: int = 0
    traced: int = 0
    steps: tuple[TraceStep, ...] = ()
    hooks: tuple[HookPassage, ...] = ()
    ends: tuple[TraceEnd, ...] = ()
    missing: tuple[str, ...] = ()
