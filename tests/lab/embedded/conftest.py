"""Fixtures of the API server's tests: one server a module, and a namespace a test."""

import itertools
from collections.abc import Iterator

import pytest

from tests.lab.embedded.apiserver_process import Server, namespace

_numbers = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests that need no other."""
    running = Server(tmp_path_factory.mktemp("api"))
    running.start()
    yield running
    running.kill()
    assert (running.folder / "log").read_text() == ""


@pytest.fixture
def ns(server: Server) -> str:
    """A namespace of the test's own."""
    return namespace(server, f"n{next(_numbers)}")
