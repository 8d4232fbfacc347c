"""`kubereach probe --trace` on a real Kubernetes: the breaks of the embedded lab, with real flannel and kube-proxy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import COMBINATIONS, KUSTOMIZED, WAYS
from tests.e2e.installed import Installed
from tests.lab.test_trace import BREAKS, Break
from tests.lab.test_trace import test_stops_where_it_is_broken as stops_where_it_is_broken
from tests.lab.watched import CLEARED_S

# Without a tunnel, flannel puts a missing route back by itself; and only the chart is given an outside to probe.
NOT_HERE = {"flannel-host-gw": {"missing route"}, "flannel-vxlan": {"missing SNAT"}}


@pytest.fixture(autouse=True)
def healthy(installed: Installed) -> None:
    """Every test begins in a lab without fault, with the controller where none cuts it off."""
    installed.pin()
    installed.wait_healthy(CLEARED_S)


def dealt() -> Iterator[Any]:
    """Yield every break with each combination that it applies to."""
    for kind in COMBINATIONS:
        for broken in BREAKS:
            if kind[0] in broken.cnis and broken.name not in NOT_HERE[kind[0]]:
                yield pytest.param(kind, broken, id=f"{WAYS[kind[0]]}-{broken.name}")


@pytest.mark.parametrize(("installed", "broken"), list(dealt()), indirect=["installed"])
def test_a_trace_stops_where_it_is_broken(installed: Installed, broken: Break) -> None:
    """The device, the rule by the kernel's own word, and the cause; found by the agents that are pods."""
    stops_where_it_is_broken(installed, broken)


@KUSTOMIZED
def test_a_healthy_pair_has_no_stop(installed: Installed) -> None:
    """Twenty traces between two nodes: every packet seen at every device, there and back, and none misses."""
    here, there = (installed.endpoint(node) for node in ("node-a", "node-b"))
    for _ in range(20):
        report = installed.kubereach("probe", here, there, "--trace", "--count", "1", "-o", "json").json
        assert (report["outcome"], report["trace"].get("stop")) == ("ok", None)
