"""The page, in a real browser, against the API over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, async_playwright, expect

from tests.web.stub_controller import INCIDENT, RESOLVED, TOKEN, StubController, cell

FLAGS = "no-sandbox disable-gpu disable-quic no-first-run disable-component-update disable-sync"
QUIET = ["--disable-background-networking", *(f"--{flag}" for flag in FLAGS.split())]
DEADLINE_MS = 15_000
expect.set_options(timeout=DEADLINE_MS)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One browser for all tests of this file."""
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=QUIET)
        yield launched
        await launched.close()


@pytest_asyncio.fixture
async def stub() -> AsyncIterator[StubController]:
    """A controller with four healthy nodes."""
    controller = StubController(4)
    await controller.start()
    try:
        yield controller
    finally:
        await controller.stop()


class Watched:
    """A page of its own context that keeps what no visit may bring: errors, and requests to another host.

    `expected` holds beginnings of console messages that a test provokes.
    """

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.expected: tuple[str, ...] = ()
        self.said: list[str] = []
        self.strange: list[str] = []
        page.set_default_timeout(DEADLINE_MS)
        page.on(
            "console", lambda message: self.said.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: self.said.append(f"thrown: {error}"))
        page.on("request", lambda sent: None if sent.url.startswith(origin) else self.strange.append(sent.url))

    def check(self) -> None:
        """Nothing was said that no test expects, and nobody else was asked."""
        assert [text for text in self.said if not text.startswith(self.expected or ("\0",))] == []
        assert self.strange == []


@pytest_asyncio.fixture
async def watched(browser: Browser, stub: StubController) -> AsyncIterator[Watched]:
    """A fresh tab, not yet anywhere; checked at the end."""
    context = await browser.new_context(viewport={"width": 1440, "height": 900})
    seen = Watched(await context.new_page(), stub.url)
    yield seen
    await context.close()
    seen.check()


async def visit(watched: Watched, stub: StubController, fragment: str = f"token={TOKEN}") -> Page:
    """Opens the page and waits until it is live."""
    await watched.page.goto(f"{stub.url}/#{fragment}")
    await expect(watched.page.locator("#connection-words")).to_have_text("live")
    return watched.page


async def place(page: Page, row: int, column: int) -> tuple[float, float]:
    """Where on the screen the middle of a cell is."""
    grid = page.locator("#grid")
    box, data = await grid.bounding_box(), await grid.evaluate("element => ({...element.dataset})")
    assert box is not None
    size = float(data["size"])
    return box["x"] + float(data["left"]) + (column + 0.5) * size, box["y"] + float(data["top"]) + (row + 0.5) * size


def problem(page: Page, line: int) -> Locator:
    """A row of the list of problems, which is the matrix in words."""
    return page.locator("#problems-table tbody tr").nth(line)


async def test_a_healthy_cluster_is_said_to_be_healthy(watched: Watched, stub: StubController) -> None:
    """Summary, legend and list agree; the token leaves the address bar and stays in the tab."""
    page = await visit(watched, stub)
    await expect(page.locator("#headline")).to_have_text("✓ all measured paths are as they should be")
    await expect(page.locator("#nodes")).to_have_text("4")
    await expect(page.locator("#agents")).to_have_text("4 of 4")
    await expect(page.locator("#legend")).to_have_text("✓ ok 16")
    await expect(page.locator("#problems-none")).to_contain_text("all 16 measured cells")
    assert TOKEN not in page.url
    await page.reload()
    await expect(page.locator("#connection-words")).to_have_text("live")


async def test_a_change_shows_without_being_asked_for(watched: Watched, stub: StubController) -> None:
    """Cells and incidents come by the event stream, and go by it."""
    page = await visit(watched, stub)
    await expect(page.locator("#tab-egress")).to_be_visible()
    asked = len(stub.requests)
    await stub.set_cell(cell("node-a", "node-b", "failing"))
    await expect(problem(page, 0)).to_contain_text("failing, should pass")
    await expect(page.locator("#tab-node .count")).to_have_text("1")
    stub.incidents = [INCIDENT]
    await stub.publish("incidents", [INCIDENT])
    await expect(page.locator("#open article h3")).to_contain_text(INCIDENT["title"])
    await expect(page.locator("#headline")).to_have_text("✗ 1 open incident")
    assert await page.title() == "(1) kubereach"
    stub.incidents = [{**INCIDENT, "state": "resolved", "resolved_at": "2026-11-21T11:45:00Z"}]
    await stub.publish("incidents", stub.incidents)
    await stub.set_cell(cell("node-a", "node-b"))
    await expect(page.locator("#headline")).to_have_text("✓ all measured paths are as they should be")
    await expect(page.locator("#open")).to_contain_text("none")
    await expect(page.locator("#resolved-count")).to_have_text("1")
    assert len(stub.requests) - asked < 30


STATES: list[tuple[dict[str, Any], str]] = [
    (cell("node-a", "node-b", "failing"), "failing, should pass"),
    (cell("node-a", "node-b", "degraded"), "degraded"),
    (cell("node-a", "node-b", "ok", "unexpected_pass"), "passes, but policy forbids it"),
    (cell("node-a", "node-b", "unknown", age_s=None), "unknown"),
    (cell("node-a", "node-b", "stale"), "stale: no new data"),
    (cell("node-a", "node-b", "starved"), "starved: the agent got no CPU"),
    (cell("node-a", "node-b", "of-a-later-version"), "unknown"),
]


@pytest.mark.parametrize(("changed", "words"), STATES, ids=[row[1] + ": " + row[0]["state"] for row in STATES])
async def test_every_state_has_its_own_words(
    watched: Watched, stub: StubController, changed: dict[str, Any], words: str
) -> None:
    """Silence is no answer: what is not known to be well is listed, each state by its own name."""
    await stub.set_cell(changed)
    page = await visit(watched, stub)
    await expect(problem(page, 0).locator("td").nth(3)).to_have_text(words)
    await expect(page.locator("#legend li")).to_have_count(2)


async def test_blocked_as_intended_is_no_problem(watched: Watched, stub: StubController) -> None:
    """What policy forbids and the wire blocks is as it should be, and shown as such."""
    await stub.set_cell(cell("node-a", "node-b", "failing", "blocked_as_intended"))
    page = await visit(watched, stub)
    await expect(page.locator("#legend")).to_contain_text("blocked as intended 1")
    await expect(page.locator("#problems-none")).to_be_visible()


async def test_tabs_show_their_matrix(watched: Watched, stub: StubController) -> None:
    """Each kind has its rows and columns, by mouse and by keyboard, and its own address."""
    await stub.set_cell(cell("node-a", "pay/payments:8443", "failing"), "service")
    page = await visit(watched, stub)
    await page.click("#tab-service")
    await expect(page.locator("#grid")).to_have_attribute("data-columns", "8")
    await expect(problem(page, 0)).to_contain_text("pay/payments:8443")
    await page.keyboard.press("ArrowRight")
    await expect(page.locator("#tab-dns")).to_be_focused()
    await expect(page.locator("#grid")).to_have_attribute("data-kind", "dns")
    assert page.url.endswith("#kind=dns")
    await page.reload()
    await expect(page.locator("#tab-dns")).to_have_attribute("aria-selected", "true")


async def test_policies_show_expected_beside_observed(watched: Watched, stub: StubController) -> None:
    """What was seen goes before what policies say, which fills the other cells; ports are told, paths not asked for."""
    page = await visit(watched, stub)
    await page.click("#tab-namespace")
    await expect(page.locator("#grid")).to_have_attribute("data-columns", "2")
    for words in ("blocked as intended 1", "may pass, not sampled 1", "nothing may pass, not sampled 1"):
        await expect(page.locator("#legend")).to_contain_text(words)
    await page.mouse.click(*await place(page, 1, 0))
    await expect(page.locator("#cell")).to_contain_text("policies: partly · TCP 8443")
    assert not any("by=namespace" in path and "/paths" in path for path, _ in stub.requests)


async def test_a_cell_opens_with_its_paths(watched: Watched, stub: StubController) -> None:
    """Pointing tells, clicking opens, Escape closes; the panel leads to the incident that explains the cell."""
    stub.incidents = [INCIDENT]
    await stub.set_cell(cell("node-a", "node-b", "failing", failing=["pod tcp 4"]))
    page = await visit(watched, stub)
    await page.mouse.move(*await place(page, 0, 1))
    await expect(page.locator("#tip")).to_contain_text("node-a → node-b")
    await expect(page.locator("#tip")).to_contain_text("1 of 8 paths failing")
    await page.mouse.click(*await place(page, 0, 1))
    await expect(page.locator("#cell-title")).to_contain_text("node-a → node-b")
    await expect(page.locator("#cell tbody tr")).to_have_count(8)
    await expect(page.locator("#cell tbody tr").nth(1)).to_contain_text("host · udp · IPv6")
    await page.get_by_role("button", name="explained by").click()
    await expect(page.locator("#open article")).to_be_focused()
    await stub.set_cell(cell("node-a", "node-b"))
    await expect(page.locator("#cell tbody .badge.ok")).to_have_count(8)
    await page.keyboard.press("Escape")
    await expect(page.locator("#cell")).to_be_hidden()


async def test_the_matrix_is_walked_by_keyboard(watched: Watched, stub: StubController) -> None:
    """Arrow keys say the cell aloud, stop at the edges, and Enter opens it."""
    await stub.set_cell(cell("node-b", "node-c", "failing"))
    page = await visit(watched, stub)
    await page.focus("#grid")
    for key in ("ArrowLeft", "ArrowUp", "ArrowRight", "ArrowRight", "ArrowDown"):
        await page.keyboard.press(key)
    await expect(page.locator("#spoken")).to_contain_text("node-b to node-c: failing, blocked, but should pass")
    await page.keyboard.press("Enter")
    await expect(page.locator("#cell-title")).to_contain_text("node-b → node-c")
    await page.keyboard.press("End")
    await expect(page.locator("#spoken")).to_contain_text("node-b to node-d")


async def test_an_incident_shows_cause_evidence_and_mend(watched: Watched, stub: StubController) -> None:
    """Object, sentence and mend at once; evidence unfolds, and stays unfolded when data is renewed."""
    stub.incidents = [INCIDENT, RESOLVED]
    page = await visit(watched, stub)
    card = page.locator("#open article")
    for words in ("node.firewall_drop", "iptables-rule filter/FORWARD/3 on node-b", "iptables -D FORWARD 3", "97 %"):
        await expect(card).to_contain_text(words)
    await expect(card.locator(".evidence")).to_be_hidden()
    await card.locator("summary", has_text="Evidence").click()
    await expect(card.locator(".evidence")).to_contain_text("11 → 14")
    await stub.publish("incidents", [{**INCIDENT, "cell_count": 5}])
    await expect(card).to_contain_text("5 cells")
    await expect(card.locator(".evidence")).to_be_visible()
    await card.locator("summary", has_text="Cells concerned").click()
    await card.get_by_role("button", name="node-a → pay/payments:8443").click()
    await expect(page.locator("#tab-service")).to_have_attribute("aria-selected", "true")
    await expect(page.locator("#cell-title")).to_contain_text("pay/payments:8443")
    await expect(page.locator("#resolved")).to_be_hidden()
    await page.click("#resolved-box > summary")
    await expect(page.locator("#resolved article")).to_contain_text(RESOLVED["title"])


async def test_pointing_at_an_incident_lights_its_cells(watched: Watched, stub: StubController) -> None:
    """The cells concerned keep their colour, the others fade."""
    watched.expected = ("Canvas2D: Multiple readback",)
    stub.incidents = [INCIDENT]
    await stub.set_cell(cell("node-a", "node-b", "failing"))
    page = await visit(watched, stub)
    colours = """() => { const {left, top, size} = document.getElementById('grid').dataset;
        const paint = document.getElementById('canvas').getContext('2d'), y = +top + 0.1 * size;
        const opacity = (column) => paint.getImageData(+left + (column + 0.2) * size, y, 1, 1).data[3];
        return [opacity(1), opacity(2)]; }"""
    await page.wait_for_function(f"JSON.stringify(({colours})()) === '[255,255]'")
    await page.hover("#open article h3")
    await page.wait_for_function(f"(([concerned, other]) => concerned === 255 && other < 100)(({colours})())")


async def test_a_lost_stream_is_said_and_polled_around(watched: Watched, stub: StubController) -> None:
    """While the stream is away the page asks every two seconds and says so; then it is live again."""
    page = await visit(watched, stub)
    watched.expected = ("Failed to load resource",)
    stub.streaming = False
    stub.end_streams()
    await expect(page.locator("#connection")).to_have_attribute("data-state", "polling")
    await stub.set_cell(cell("node-c", "node-d", "failing"), tell=False)
    await expect(problem(page, 0)).to_contain_text("node-c")
    stub.streaming = True
    await expect(page.locator("#connection-words")).to_have_text("live")


async def test_a_controller_that_is_gone_is_not_shown_as_healthy(watched: Watched, stub: StubController) -> None:
    """What stands there is called old as soon as nobody answers."""
    page = await visit(watched, stub)
    watched.expected = ("Failed to load resource",)
    await stub.stop()
    await expect(page.locator("#connection")).to_have_attribute("data-state", "lost")
    await expect(page.locator("#headline")).to_have_text("? connection lost: what is shown is old")
    await stub.start()


async def test_without_a_token_there_is_a_form(watched: Watched, stub: StubController) -> None:
    """Nothing is asked without a token; a wrong one is refused in words; the right one opens the view."""
    page = watched.page
    await page.goto(stub.url)
    await expect(page.locator("#token-form")).to_be_visible()
    assert stub.requests == []
    watched.expected = ("Failed to load resource: the server responded with a status of 401",)
    await page.fill("#token", "wrong")
    await page.keyboard.press("Enter")
    await expect(page.locator("#notice")).to_contain_text("refuses the token: wrong token")
    await page.fill("#token", TOKEN)
    await page.keyboard.press("Enter")
    await expect(page.locator("#connection-words")).to_have_text("live")
    await expect(page.locator("#notice")).to_be_hidden()


async def test_a_token_that_expires_brings_the_form_back(watched: Watched, stub: StubController) -> None:
    """And nothing of the cluster stays on the screen."""
    page = await visit(watched, stub)
    watched.expected = ("Failed to load resource",)
    stub.token = "another"
    stub.end_streams()
    await expect(page.locator("#token-form")).to_be_visible()
    await expect(page.locator("#view")).to_be_hidden()


async def test_names_are_text_and_never_markup(watched: Watched, stub: StubController) -> None:
    """What the cluster's objects say is not trusted."""
    evil = "<img src=x onerror=alert(1)>"
    stub.incidents = [{**INCIDENT, "title": evil}]
    page = await visit(watched, stub)
    await expect(page.locator("#open h3")).to_contain_text(evil)
    assert await page.locator("#open img").count() == 0


async def test_silent_agents_are_counted(watched: Watched, stub: StubController) -> None:
    """An agents event renews the summary."""
    page = await visit(watched, stub)
    stub.nodes[1]["agent"] = {"state": "silent"}
    await stub.publish("agents", stub.nodes)
    await expect(page.locator("#agents")).to_have_text("3 of 4")


async def test_a_thousand_nodes(browser: Browser) -> None:
    """A million cells are drawn, found and zoomed; a pixel that is wrong is not averaged away."""
    stub = StubController(1000)
    await stub.start()
    context = await browser.new_context(viewport={"width": 1440, "height": 900})
    try:
        watched = Watched(await context.new_page(), stub.url)
        page = await visit(watched, stub)
        await expect(page.locator("#legend")).to_contain_text("not sampled 980,000")
        await expect(page.locator("#problems-table tbody tr")).to_have_count(40)
        await problem(page, 3).click()
        await expect(page.locator("#cell-title")).to_contain_text("node-0417")
        drawn = await page.evaluate("""async () => {
            const grid = document.getElementById('grid'), times = [];
            for (let step = 0; step < 10; step++) {
              const from = performance.now();
              grid.scrollTo(step * 40, step * 60);
              await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
              times.push(performance.now() - from);
            }
            return times.sort((a, b) => a - b)[5]; }""")
        assert drawn < 500
        for _ in range(9):
            await page.click("#zoom-in")
        assert float(await page.locator("#grid").get_attribute("data-size") or 0) >= 11
        watched.check()
    finally:
        await context.close()
        await stub.stop()
