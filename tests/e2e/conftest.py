"""Labs with a real Kubernetes: one for each combination of network plugin and proxy, one after the other."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from lab.kubernetes import build
from lab.spec import LabSpec
from tests.e2e.installed import Installed, Way
from tests.lab.labs import Lab
from tests.lab.watched import OneAtATime

COMBINATIONS = (("flannel-vxlan", "iptables"), ("flannel-host-gw", "nftables"))
# How kubereach gets into the lab of a combination: each way is used, and all tests pass with either.
WAYS: dict[str, Way] = {"flannel-vxlan": "kustomize", "flannel-host-gw": "helm"}


def spec_of(kind: tuple[str, str]) -> LabSpec:
    """The lab of a combination."""
    return LabSpec(f"w{os.getpid()}", cni=kind[0], proxy=kind[1], control_plane="kubernetes")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a lab with kubereach installed in it run one after the other, so that it is made once."""

    def place(item: pytest.Item) -> int:
        callspec = getattr(item, "callspec", None)
        kind = callspec.params.get("installed") if callspec is not None else None
        return COMBINATIONS.index(kind) + 1 if kind in COMBINATIONS else 0

    items.sort(key=place)


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


@pytest.fixture(scope="session")
def installations(built: None) -> Iterator[OneAtATime[Installed]]:
    """Labs with kubereach installed in them; one at a time."""
    kept = OneAtATime(lambda spec: Installed(spec, WAYS[spec.cni]))
    yield kept
    kept.end()


@pytest.fixture
def installed(request: pytest.FixtureRequest, installations: OneAtATime[Installed]) -> Installed:
    """The lab of the combination that is asked for, healthy at the start."""
    return installations.of(spec_of(request.param))


BOTH = pytest.mark.parametrize("installed", COMBINATIONS, ids=list(WAYS.values()), indirect=True)
KUSTOMIZED = pytest.mark.parametrize("installed", COMBINATIONS[:1], ids=["kustomize"], indirect=True)
