"""Labs with a real Kubernetes: one for each combination of network plugin and proxy, one after the other."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from lab.kubernetes import build
from lab.spec import LabSpec
from tests.e2e.installed import Installed, Way
from tests.e2e.pace import Pace
from tests.lab.labs import Lab
from tests.lab.watched import OneAtATime

COMBINATIONS = (("flannel-vxlan", "iptables"), ("flannel-host-gw", "nftables"))
# How kubereach gets into the lab of a combination: each way is used, and all tests pass with either.
WAYS: dict[str, Way] = {"flannel-vxlan": "kustomize", "flannel-host-gw": "helm"}

# The first test in a lab may have to build the image, the first of the chart helm.
TEST_S = 900.0
# How soon it is healthy is a law of test_install.
READY_S = 180.0


def spec_of(kind: tuple[str, str]) -> LabSpec:
    """The lab of a combination."""
    return LabSpec(f"w{os.getpid()}", cni=kind[0], proxy=kind[1], control_plane="kubernetes")


def pytest_configure(config: pytest.Config) -> None:
    """Our own marks."""
    config.addinivalue_line("markers", "spoils_its_lab: no test can use the lab afterwards")
    config.addinivalue_line("markers", "loud: takes all of the machine for a while")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Two processes side by side take a combination each: most of the time is waiting (tests/__main__.py)."""
    names = [cni for cni, _ in COMBINATIONS]
    parser.addoption("--combination", choices=names, help="only tests in labs of this one; the last has those of none")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that share a lab run one after the other, so that it is made once; what spoils a lab is its last test."""

    def place(item: pytest.Item) -> tuple[int, bool, bool]:
        callspec = getattr(item, "callspec", None)
        kinds = [one for one in callspec.params.values() if one in COMBINATIONS] if callspec is not None else []
        number = COMBINATIONS.index(kinds[0]) if kinds else len(COMBINATIONS) - 1
        last = item.get_closest_marker("spoils_its_lab") is not None
        return number, callspec is not None and "installed" in callspec.params, last

    for item in items:
        item.add_marker(pytest.mark.timeout(TEST_S))
    items.sort(key=place)
    if chosen := config.getoption("--combination"):
        kept = [item for item in items if COMBINATIONS[place(item)[0]][0] == chosen]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


@pytest.fixture(scope="session")
def built() -> None:
    """Binaries and images are there; where they are not, this takes minutes."""
    build.ensure(print)


@pytest.fixture(scope="session")
def pace(pytestconfig: pytest.Config) -> Pace:
    """When this lane may be loud, and when the other is not."""
    lanes = [cni for cni, _ in COMBINATIONS]
    return Pace(build.cache_directory().parent / "lanes", pytestconfig.getoption("--combination") or "all", lanes)


@pytest.fixture(autouse=True)
def in_turn(request: pytest.FixtureRequest, pace: Pace) -> Iterator[None]:
    """What happens in a lab with kubereach in it is timed; all else brings labs up and down, and is loud."""
    loud = request.node.get_closest_marker("loud") is not None or "installed" not in request.fixturenames
    with pace.loud() if loud else pace.timed():
        yield


@pytest.fixture(scope="session")
def bare(built: None) -> Iterator[OneAtATime[Lab]]:
    """Labs without kubereach; one at a time."""
    kept = OneAtATime(Lab)
    yield kept
    kept.end()


@pytest.fixture(params=COMBINATIONS, ids=["+".join(one) for one in COMBINATIONS])
def lab(request: pytest.FixtureRequest, bare: OneAtATime[Lab], installations: OneAtATime[Installed]) -> Lab:
    """A lab with the sample in it and without agents, in each combination."""
    installations.end()
    return bare.of(spec_of(request.param))


@pytest.fixture(scope="session")
def installations(built: None, pace: Pace) -> Iterator[OneAtATime[Installed]]:
    """Labs with kubereach installed in them; one at a time."""

    def make(spec: LabSpec) -> Installed:
        with pace.loud():
            return Installed(spec, WAYS[spec.cni])

    kept = OneAtATime(make, lambda lab: lab.wait_healthy(READY_S))
    yield kept
    kept.end()


@pytest.fixture
def installed(request: pytest.FixtureRequest, installations: OneAtATime[Installed], bare: OneAtATime[Lab]) -> Installed:
    """The lab of the combination that is asked for, healthy at the start."""
    bare.end()
    return installations.of(spec_of(request.param))


BOTH = pytest.mark.parametrize("installed", COMBINATIONS, ids=list(WAYS.values()), indirect=True)
KUSTOMIZED = pytest.mark.parametrize("installed", COMBINATIONS[:1], ids=["kustomize"], indirect=True)
BY_HELM = pytest.mark.parametrize("installed", COMBINATIONS[1:], ids=["helm"], indirect=True)
