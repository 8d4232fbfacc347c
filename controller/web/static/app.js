// The page: reads documents, follows the event stream, hands data to grid, panel and incidents. Where the stream is
// down, it asks every two seconds, and says so.

import { dropToken, get, keepToken, stream, takeToken, Unauthorized } from "./api.js";
import { badge, byId, element, fill, setText } from "./dom.js";
import { Grid } from "./grid.js";
import * as incidents from "./incidents.js";
import { age, BY_CODE, BY_POLICY, KINDS, LOOKS, loss, plural, time, VERDICTS } from "./looks.js";
import { Matrix } from "./matrix.js";
import { drawPanel } from "./panel.js";

const POLL_MS = 2000, RENEW_MS = 5000, RENEW_LARGE_MS = 20000, LARGE_CELLS = 20000, LISTED = 200, PREFETCH_NODES = 64;
const matrices = new Map();
let kind = "node", selected = null, paths = null, cluster = null, connection = "connecting", running = null, changed = false;

const grid = new Grid(byId("grid"), byId("grid-space"), byId("canvas"), {
  hover: showTip, open: (at) => openCell(grid.matrix.cell(at)), close: closeCell,
  cursor: (at) => setText(byId("spoken"), spoken(grid.matrix.cell(at))),
});

/* ---- what is shown ---- */

function drawAll() {
  const matrix = matrices.get(kind);
  drawTabs();
  drawSummary();
  incidents.draw({ light: lightCells, show: goTo, problems: matrix?.problemCount ?? 0 });
  if (!matrix) return;
  const empty = matrix.code.length === 0 || matrix.measuredCount === 0;
  byId("grid-empty").hidden = !empty;
  setText(byId("grid-empty"), empty ? `Nothing of this kind is measured${matrix.code.length ? " yet" : ""}.` : "");
  byId("grid").hidden = matrix.code.length === 0;
  byId("grid").setAttribute("aria-label", `${kind} matrix, ${matrix.rows.length} rows, ${matrix.columns.length} columns, ${plural(matrix.problemCount, "cell")} not as it should be`);
  drawLegend(matrix);
  drawProblems(matrix);
  if (selected) drawPanel(current(selected), paths, panelActions);
  grid.draw();
}

function changedSoon() {
  if (changed) return;
  changed = true;
  requestAnimationFrame(() => { changed = false; drawAll(); });
}

function drawTabs() {
  const bar = byId("tabs");
  if (!bar.children.length) {
    bar.append(...KINDS.map(([name, title, hint]) => element("button", { type: "button", role: "tab", id: `tab-${name}`, title: hint, "aria-controls": "matrix-panel", onclick: () => choose(name) }, title, element("span", { class: "count", hidden: true }))));
    bar.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      const at = KINDS.findIndex(([name]) => name === kind);
      choose(KINDS[(at + step + KINDS.length) % KINDS.length][0]);
      byId(`tab-${kind}`).focus();
    });
  }
  for (const [name] of KINDS) {
    const tab = byId(`tab-${name}`), count = tab.lastElementChild, problems = matrices.get(name)?.problemCount ?? 0;
    tab.setAttribute("aria-selected", String(name === kind));
    tab.tabIndex = name === kind ? 0 : -1;
    count.hidden = problems === 0;
    setText(count, problems > 999 ? "999+" : String(problems));
    count.dataset.some = "true";
  }
  byId("matrix-panel").setAttribute("aria-labelledby", `tab-${kind}`);
}

function drawSummary() {
  const matrix = matrices.get(kind), opened = incidents.open().length;
  const nodes = cluster?.nodes ?? [];
  const ready = nodes.filter((node) => node.ready !== false).length;
  const reporting = nodes.filter(isReporting);
  setText(byId("nodes"), cluster ? (ready === nodes.length ? String(nodes.length) : `${nodes.length}, ${nodes.length - ready} not ready`) : "–");
  setText(byId("agents"), cluster ? `${reporting.length} of ${nodes.length}` : "–");
  byId("agents").dataset.bad = String(cluster !== null && reporting.length < nodes.length);
  byId("agents").title = nodes.filter((node) => !isReporting(node)).slice(0, 20).map((node) => `${node.name}: silent`).join("\n");
  const newest = matrix?.newest ?? null;
  setText(byId("newest"), matrix ? (newest === null ? "none" : `${age(newest)} old`) : "–");
  byId("newest").dataset.bad = String(newest !== null && newest > 15);
  const problems = matrix?.problemCount ?? 0;
  let words = "reading the matrix…", tone = "calm";
  if (opened) [words, tone] = [`✗ ${plural(opened, "open incident")}`, "bad"];
  else if (matrix && problems) [words, tone] = [`▲ ${plural(problems, "cell")} not as it should be, no cause named yet`, "warn"];
  else if (matrix?.measuredCount) [words, tone] = ["✓ all measured paths are as they should be", "good"];
  else if (matrix) [words, tone] = ["? nothing measured yet", "warn"];
  if (cluster?.stale_since) [words, tone] = [`? the Kubernetes API is silent since ${cluster.stale_since}; ${words}`, "warn"];
  if (connection === "lost") [words, tone] = ["? connection lost: what is shown is old", "warn"];
  if (connection === "none") [words, tone] = ["a token is needed", "calm"];
  setText(byId("headline"), words);
  byId("headline").dataset.tone = tone;
  document.title = `${opened ? `(${opened}) ` : ""}kubereach`;
  const said = { connecting: "connecting", live: "live", polling: "reconnecting, asking every 2 s", lost: "connection lost, trying again", none: "not connected" };
  byId("connection").dataset.state = connection;
  setText(byId("connection-words"), said[connection]);
}

const isReporting = (node) => (typeof node.agent === "object" && node.agent ? node.agent.state : node.agent) === "reporting";

function drawLegend(matrix) {
  const items = LOOKS.filter((look) => matrix.counts[look.code]).map((look) => `${look.name}:${matrix.counts[look.code]}`);
  const legend = byId("legend");
  if (legend.dataset.state === items.join()) return;
  legend.dataset.state = items.join();
  legend.replaceChildren(...LOOKS.filter((look) => matrix.counts[look.code]).map((look) => element("li", null, badge(look), element("b", null, ` ${matrix.counts[look.code].toLocaleString("en")}`))));
}

function drawProblems(matrix) {
  const found = matrix.problems(LISTED), total = matrix.problemCount;
  byId("problems-table").hidden = total === 0;
  byId("problems-none").hidden = total !== 0;
  setText(byId("problems-none"), matrix.measuredCount ? `✓ all ${plural(matrix.measuredCount, "measured cell")} of this matrix are as they should be` : "nothing measured yet");
  byId("problems-more").hidden = total <= LISTED;
  setText(byId("problems-more"), `and ${(total - LISTED).toLocaleString("en")} more`);
  const body = byId("problems-table").tBodies[0];
  // Rows are kept, so that a button keeps its focus while figures are renewed.
  while (body.rows.length > found.length) body.lastElementChild.remove();
  found.forEach((at, line) => {
    const cell = matrix.cell(at);
    const row = body.rows[line] ?? body.appendChild(problemRow());
    row.dataset.source = cell.source;
    row.dataset.destination = cell.destination;
    const [mark, from, to, state, lost, rtt, old] = row.cells;
    setText(mark, cell.look.glyph);
    mark.className = `mark ${cell.look.name}`;
    setText(from.firstElementChild, cell.source);
    setText(to, cell.destination);
    setText(state, cell.look.words + (cell.verdict === "unexpected_block" ? ", should pass" : ""));
    setText(lost, loss(cell.loss));
    setText(rtt, time(cell.rtt));
    setText(old, age(cell.age));
  });
}

function problemRow() {
  const row = element("tr", null, element("td", { "aria-hidden": "true" }), element("td", null, element("button", { type: "button", class: "link" })), element("td"), element("td"), element("td", { class: "n" }), element("td", { class: "n" }), element("td", { class: "n" }));
  row.addEventListener("click", () => goTo({ kind, source: row.dataset.source, destination: row.dataset.destination }));
  return row;
}

const spoken = (cell) => `${cell.source} to ${cell.destination}: ${cell.look.words}, ${VERDICTS[cell.verdict]}, loss ${loss(cell.loss)}, ${time(cell.rtt)}`;

function showTip(at, x, y) {
  const tip = byId("tip");
  tip.hidden = at < 0;
  if (at < 0) return;
  const cell = grid.matrix.cell(at);
  fill(tip,
    element("strong", null, `${cell.source} → ${cell.destination}`), element("div", null, badge(cell.look)),
    cell.expected && element("div", { class: "meta" }, `policies: ${cell.expected}`),
    cell.look.name !== "unsampled" && cell.age !== null && element("div", { class: "meta" }, `${VERDICTS[cell.verdict]} · loss ${loss(cell.loss)} · ${time(cell.rtt)} · ${cell.age === null ? "never measured" : `${age(cell.age)} ago`}`),
    cell.failing.length > 0 && element("div", { class: "meta" }, `${cell.failing.length} of ${plural(cell.paths, "path")} failing; click for each`));
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 8))}px`;
  tip.style.top = `${y + 18 + box.height > innerHeight ? y - box.height - 10 : y + 18}px`;
}

/* ---- what a person does ---- */

const panelActions = {
  close: closeCell,
  incident: (id) => { const card = document.querySelector(`[data-id="${CSS.escape(id)}"]`); card?.scrollIntoView({ block: "nearest" }); card?.focus(); },
};

async function choose(name) {
  if (name === kind && matrices.has(name)) return;
  kind = name;
  closeCell();
  history.replaceState(null, "", name === "node" ? location.pathname + location.search : `#kind=${name}`);
  if (matrices.has(name)) grid.show(matrices.get(name));
  drawAll();
  await guarded(() => readMatrix(name));
}

function openCell(cell) {
  selected = { kind: cell.kind, source: cell.source, destination: cell.destination };
  paths = null;
  drawPanel(cell, paths, panelActions);
  byId("cell").scrollIntoView({ block: "nearest" });
  guarded(readPaths);
}

function closeCell() {
  selected = null;
  grid.selected = -1;
  byId("cell").hidden = true;
  grid.draw();
}

async function goTo(cell) {
  await choose(cell.kind);
  const at = grid.matrix?.indexOf(cell.source, cell.destination) ?? -1;
  if (at < 0) return;
  grid.reveal(at);
  grid.open(at);
}

function current(wanted) {
  const matrix = matrices.get(wanted.kind), at = matrix.indexOf(wanted.source, wanted.destination);
  return at >= 0 ? matrix.cell(at) : { ...wanted, look: BY_CODE[0], verdict: "unknown", loss: 0, rtt: 0, age: null, failing: [] };
}

function lightCells(cells) {
  const matrix = matrices.get(kind);
  if (!matrix) return;
  grid.light(cells && new Set(cells.filter((cell) => cell.kind === kind).map((cell) => matrix.indexOf(cell.source, cell.destination)).filter((at) => at >= 0)));
}

/* ---- what the controller says ---- */

async function readMatrix(name) {
  const read = new Matrix(BY_POLICY.has(name) ? await get("policy/matrix", { by: name }, 60000) : await get("matrix", { kind: name }, 60000));
  matrices.set(name, read);
  if (name === kind) grid.show(read);
  changedSoon();
}

async function readPaths() {
  const wanted = selected;
  if (!wanted || BY_POLICY.has(wanted.kind)) return;
  let read;
  try {
    const said = await get("paths", wanted);
    read = Object.assign(said.paths, { unsampled: said.unsampled });
  } catch (error) {
    if (error instanceof Unauthorized) throw error;
    read = error;
  }
  if (wanted === selected) { paths = read; changedSoon(); }
}

async function readCluster() {
  cluster = await get("cluster");
  changedSoon();
}

async function readIncidents() {
  incidents.replaceAll(await get("incidents"));
  changedSoon();
}

const readAll = () => Promise.all([readCluster(), readIncidents(), readMatrix(kind), readPaths()]);

async function readOthers() {
  if ((cluster?.nodes ?? []).length > PREFETCH_NODES) return;
  for (const [name] of KINDS) if (name !== kind && !BY_POLICY.has(name)) await readMatrix(name);
}

function onEvent(name, data) {
  if (name === "cells" && Array.isArray(data)) {
    const strange = new Set();
    for (const cell of data) {
      const matrix = matrices.get(cell.kind);
      if (matrix && matrix.put(cell) < 0) strange.add(cell.kind);
    }
    for (const unknown of strange) guarded(() => readMatrix(unknown));
    if (selected && data.some((cell) => cell.kind === selected.kind && cell.source === selected.source && cell.destination === selected.destination)) guarded(readPaths);
  } else if (name === "incidents" && data) incidents.take(Array.isArray(data) ? data : [data]);
  else if (name === "agents") guarded(readCluster);
  changedSoon();
}

async function guarded(action) {
  try {
    await action();
    notice("");
    return true;
  } catch (error) {
    if (error instanceof Unauthorized) askToken(error.message);
    else notice(`The controller does not answer as it should: ${error.message}`);
    return false;
  }
}

function notice(text) {
  setText(byId("notice"), text);
  byId("notice").hidden = text === "";
}

async function follow(stopped) {
  while (!stopped.aborted) {
    try {
      await stream(() => { connection = "live"; guarded(readAll); }, onEvent, stopped);
    } catch (error) {
      if (error instanceof Unauthorized) return askToken(error.message);
    }
    if (stopped.aborted) return;
    if (connection !== "lost") connection = "polling";   // "lost" is for an answer to end, not for the next attempt
    changedSoon();
    await pause(POLL_MS);
  }
}

// What healthy cells say (ages, times) changes all the time and is not worth events: read anew now and then.
async function renew(stopped) {
  while (!stopped.aborted) {
    const large = (matrices.get(kind)?.code.length ?? 0) > LARGE_CELLS;
    await pause(connection !== "live" ? POLL_MS : large ? RENEW_LARGE_MS : RENEW_MS);
    if (stopped.aborted || document.hidden) continue;
    const answered = await guarded(readAll);
    if (!answered && connection !== "live") connection = "lost";
    else if (answered && connection === "lost") connection = "polling";
    changedSoon();
  }
}

const pause = (ms) => new Promise((done) => { setTimeout(done, ms); });

/* ---- beginning ---- */

function askToken(why) {
  running?.abort();
  running = null;
  dropToken();
  cluster = null;
  connection = "none";
  matrices.clear();
  incidents.replaceAll([]);
  drawSummary();
  byId("view").hidden = true;
  byId("token-form").hidden = false;
  notice(why ? `The controller refuses the token: ${why}` : "");
  byId("token").focus();
}

async function start() {
  running?.abort();
  running = new AbortController();
  const stopped = running.signal;
  byId("token-form").hidden = true;
  byId("view").hidden = false;
  connection = "connecting";
  await guarded(readAll);
  if (stopped.aborted) return;
  follow(stopped);
  renew(stopped);
  guarded(readOthers);
}

byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken(byId("token").value.trim());
  byId("token").value = "";
  notice("");
  start();
});
byId("zoom-in").addEventListener("click", () => grid.step(1));
byId("zoom-out").addEventListener("click", () => grid.step(-1));
byId("zoom-fit").addEventListener("click", () => grid.fit());
addEventListener("keydown", (event) => { if (event.key === "Escape") closeCell(); });
setInterval(() => { drawSummary(); incidents.tick(); }, 1000);

const token = takeToken();
const asked = new URLSearchParams(location.hash.slice(1)).get("kind");
if (KINDS.some(([name]) => name === asked)) kind = asked;
if (token) start();
else askToken("");
