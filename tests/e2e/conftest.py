"""Labs with a real Kubernetes: one for each combination of network plugin and proxy, one after the other."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from lab.kubernetes import build
from lab.spec import LabSpec
from tests.lab.labs import Lab

COMBINATIONS = (("flannel-vxlan", "iptables"), ("flannel-host-gw", "nftables"))


@pytest.fixture(scope="session")
def built() -> None:
    """Binaries and images are there; where they are not, this takes minutes."""
    build.ensure(print)


@pytest.fixture(scope="session", params=COMBINATIONS, ids=["+".join(one) for one in COMBINATIONS])
def lab(request: pytest.FixtureRequest, built: None) -> Iterator[Lab]:
    """A lab with the sample in it and without agents, in each combination."""
    cni, proxy = request.param
    up = Lab(LabSpec(f"r{os.getpid()}", cni=cni, proxy=proxy, control_plane="kubernetes"))
    yield up
    up.down()
