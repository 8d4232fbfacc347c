"""`python -m agent.host`: reads facts of one network namespace and ends.

One JSON `FactsOrder` on stdin, one JSON `Facts` line on stdout; before it the line {"armed":true} once a rule
trace that was asked for listens. Exit code 2 and a line on stderr if the order is not one or the namespace cannot be
entered. It changes nothing, but for what a rule trace makes and takes away again.
"""

from __future__ import annotations

import argparse
import gc
import sys

import msgspec

from agent.host.collect import collect
from agent.host.context import Context
from agent.host.enter import enter
from model.facts import FactsOrder


def main() -> int:
    """Takes the order, answers it."""
    parser = argparse.ArgumentParser(prog="python -m agent.host", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--netns", default="", help="path of the network namespace; the caller's own without")
    parser.add_argument("--cni-conf-dir", default="/etc/cni/net.d")
    parser.add_argument("--cni-bin-dir", default="/opt/cni/bin", help="one or several, with colons in between")
    options = parser.parse_args()
    try:
        order = msgspec.json.decode(sys.stdin.buffer.read(), type=FactsOrder)
        if options.netns:
            enter(options.netns)
    except (msgspec.MsgspecError, OSError) as error:
        sys.stderr.write(f"facts: {error}\n")
        return 2
    # A process that ends soon needs no collector, which would walk over 20,000 rules again and again.
    gc.disable()
    context = Context(
        order,
        netns=options.netns,
        cni_conf_dir=options.cni_conf_dir,
        cni_bin_dir=options.cni_bin_dir,
    )
    listening = None
    if order.rule_trace_asked is not None:
        from agent.host.listening import Listening  # noqa: PLC0415 - only where it is asked for

        listening = Listening(order.rule_trace_asked)
        listening.begin(lambda: _say(b'{"armed":true}'))
    facts = collect(context)
    if listening is not None:
        facts = listening.end(facts)
    _say(msgspec.json.encode(facts))
    return 0


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
