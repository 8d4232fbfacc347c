"""One API server for all tests of this folder that do not kill it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from controller.app import Controller
from tests.controller.running import populate, running
from tests.lab.embedded.apiserver_process import Server


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An API server with three nodes."""
    server = Server(tmp_path_factory.mktemp("controller-api"), family="4")
    server.start()
    populate(server)
    yield server
    server.kill()


@pytest.fixture
async def controller(api: Server) -> AsyncIterator[Controller]:
    """A controller over it."""
    async with running(api) as found:
        yield found
