"""`kubereach facts`: what stands in its tables, and its exit codes."""

from __future__ import annotations

import json
from typing import Any

from tests.cli.conftest import Kubereach
from tests.web.stub_controller import StubController

PATH = "nodes/node-a/facts"
IPVS = [
    {"family": 4, "address": "10.96.0.10", "protocol": "udp", "port": 53, "scheduler": "rr",
     "servers": [{"address": "10.244.1.3", "port": 53}, {"address": "10.244.2.3", "port": 53, "weight": 0}]},
    {"family": 4, "mark": 7, "scheduler": "rr"},
]  # fmt: skip
ENTRY = {
    "original": {"source": "10.244.1.2", "destination": "10.96.0.10", "protocol": "udp", "source_port": 4000,
                 "destination_port": 53},
    "reply": {"source": "10.244.2.3", "destination": "10.244.1.2", "protocol": "udp", "source_port": 53,
              "destination_port": 4000},
    "status": ["dnat", "seen_reply"],
}  # fmt: skip


def document(**changes: Any) -> dict[str, Any]:
    """What the controller answers."""
    return {
        "node": "node-a", "pod": "", "at": "2026-01-01T00:00:00.000Z", "fresh": True, "facts": {}, "errors": {},
        "subjects": {}, "changes": [], **changes,
    }  # fmt: skip


async def test_the_overview(stub: StubController, kubereach: Kubereach) -> None:
    """Without a subject: what is kept, what cannot be read, the latest changes first; nobody is asked."""
    kept = {"routes": {"at": "2026-01-01T00:00:00.000Z", "digest": "00ff", "entries": 7}}
    changes = [
        {"at": f"2026-01-01T00:00:0{at}.000Z", "subject": "route", "name": f"10.{at}.0.0/16", "what": "gone",
         "says": "via 10.77.1.12"} for at in range(2)
    ]  # fmt: skip
    stub.answers[PATH] = (200, document(subjects=kept, changes=changes, errors={"cni": "no such folder"}))
    done = await kubereach("facts", "node-a")
    assert done.code == 0
    assert "cannot read cni because no such folder" in done.out
    assert done.out.index("10.1.0.0/16") < done.out.index("10.0.0.0/16")
    assert "now=true" not in stub.requests[-1][0]


async def test_subjects_as_tables(stub: StubController, kubereach: Kubereach) -> None:
    """A row for each real server, and for each connection with both of its ways; the node is asked now."""
    entries = [{"query": {}, "entries": [ENTRY], "more": True}]
    stub.answers[PATH] = (200, document(facts={"ipvs": IPVS, "conntrack_entries": entries}))
    done = await kubereach("facts", "node-a", "--where", "protocol=udp", "ipvs", "conntrack_entries")
    assert done.code == 0
    rows = [line.split() for line in done.out.splitlines()]
    assert ["10.96.0.10:53", "udp", "rr", "10.244.1.3:53", "masquerade", "1", "0", "0", "0"] in rows
    assert ["mark", "7", "rr", "none"] in rows
    assert "10.244.1.2:4000 → 10.96.0.10:53" in done.out and "there are more" in done.out
    asked = stub.requests[-1][0]
    assert "now=true" in asked and "where=protocol%3Dudp" in asked


async def test_the_document_as_it_is(stub: StubController, kubereach: Kubereach) -> None:
    """-o json and -o yaml print the API's own document."""
    stub.answers[PATH] = (200, document(facts={"ipvs": IPVS}))
    assert json.loads((await kubereach("facts", "node-a", "ipvs", "-o", "json")).out) == stub.answers[PATH][1]
    assert "scheduler: rr" in (await kubereach("facts", "node-a", "ipvs", "-o", "yaml")).out


async def test_what_cannot_be_read_is_exit_code_3(stub: StubController, kubereach: Kubereach) -> None:
    """A subject that was asked for and could not be read, or an agent that is silent, is no answer."""
    stub.answers[PATH] = (200, document(errors={"conntrack": "connection tracking is not loaded in this kernel"}))
    done = await kubereach("facts", "node-a", "conntrack")
    assert done.code == 3
    assert "cannot read conntrack because connection tracking is not loaded" in " ".join(done.out.split())
    assert (await kubereach("facts", "node-a", "links", "--kept")).code == 0
    stub.answers[PATH] = (200, document(fresh=False, errors={"agent": "no agent is connected from node-a"}))
    assert (await kubereach("facts", "node-a", "links")).code == 3


async def test_nothing_is_kept_of_pods(kubereach: Kubereach) -> None:
    """--kept and --pod together are a usage error."""
    done = await kubereach("facts", "node-a", "links", "--kept", "--pod", "shop/cart")
    assert done.code == 2 and "nothing is kept of pods" in done.error_line


async def test_overlaps(stub: StubController, kubereach: Kubereach) -> None:
    """Both claims and what comes of it; 1 if there is one, 3 if a node is not known, else 0."""
    claims = [
        {"kind": "link", "cidr": "10.244.2.0/26", "who": "docker0 of node-a", "node": "node-a"},
        {"kind": "pods", "cidr": "10.244.2.0/24", "who": "pods of node-b", "node": "node-b"},
    ]
    one = {"cidr": "10.244.2.0/26", "claims": claims, "effect": "packets leave by docker0"}
    for overlaps, missing, unread, code, text in (
        ([one], [], {}, 1, "docker0 of node-a (10.244.2.0/26)"),
        ([], ["node-c"], {}, 3, "not known of node-c"),
        ([], [], {"IPPool": "403 forbidden"}, 3, "IPPool objects are not read: 403 forbidden"),
        ([], [], {}, 0, "no address is claimed twice"),
    ):
        answer = {"at": "x", "overlaps": overlaps, "missing": missing, "unread": unread}
        stub.answers["overlaps"] = (200, answer)
        done = await kubereach("overlaps")
        assert done.code == code and text in " ".join(done.out.split())
