"""What comes of one rule for one packet: a list of outcomes, more than one where chance or the unknown decides."""

from __future__ import annotations

from typing import Final, NamedTuple

from agent.host.netfilter.packet import Seen

NEXT: Final = "next"
ACCEPT: Final = "accept"
DROP: Final = "drop"
REJECT: Final = "reject"
RETURN: Final = "return"
JUMP: Final = "jump"
GOTO: Final = "goto"
UNSURE: Final = "unsure"


class Outcome(NamedTuple):
    """`flow` is where the walk goes on; `verdict` what to call it in a step ("" : nothing worth telling).

    `because` names what could not be judged and on which this outcome therefore hangs; empty if it is sure.
    """

    flow: str
    packet: Seen
    verdict: str = ""
    chain: str = ""
    detail: str = ""
    because: tuple[str, ...] = ()


def passed_by(packet: Seen, because: tuple[str, ...] = ()) -> Outcome:
    """The rule does not match: the walk goes on with the next one."""
    return Outcome(NEXT, packet, because=because)
