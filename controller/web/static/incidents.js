// Incidents as cards: what is broken, why we say so, the mend. Open or closed details stay so when data is renewed.

import { age, plural } from "./looks.js";
import { byId, copy, element, setText } from "./dom.js";

const incidents = new Map();
const unfolded = new Set();
let drawn = "";

export const take = (list) => list.forEach((one) => { if (one?.id) incidents.set(one.id, one); });
export const replaceAll = (list) => { incidents.clear(); take(list); };
export const open = () => [...incidents.values()].filter((one) => one.state === "open").sort(newestFirst);

export function concerning(kind, source, destination) {
  return open().filter((one) => one.cells.some((cell) => cell.kind === kind && cell.source === source && cell.destination === destination));
}

// `on.light(cells | null)` is called when an incident is pointed at or focused, `on.show(cell)` to go to a cell.
export function draw(on) {
  const state = JSON.stringify([on.problems > 0, ...incidents.values()]);
  if (state === drawn) return;
  drawn = state;
  const opened = open();
  const resolved = [...incidents.values()].filter((one) => one.state !== "open").sort(newestFirst);
  setText(byId("open-count"), String(opened.length));
  byId("open-count").dataset.some = String(opened.length > 0);
  setText(byId("resolved-count"), String(resolved.length));
  byId("resolved-box").hidden = resolved.length === 0;
  byId("open").replaceChildren(...(opened.length ? opened.map((one) => card(one, on)) : [on.problems ? element("p", { class: "meta" }, "none yet: what fails is being looked at") : element("p", { class: "calm" }, "✓ none: nothing that was measured is broken")]));
  byId("resolved").replaceChildren(...resolved.slice(0, 50).map((one) => card(one, on)));
  tick();
}

// Renews only the ages, so that nothing a person reads or has selected is rebuilt every second.
export function tick() {
  for (const node of document.querySelectorAll("[data-since]")) {
    setText(node, age((Date.now() - Date.parse(node.dataset.since)) / 1000));
  }
}

function card(one, on) {
  const cause = one.causes[0];
  const isOpen = one.state === "open";
  const total = Math.max(one.cell_count ?? 0, one.cells.length);
  const light = () => on.light(one.cells);
  const dark = () => on.light(null);
  return element("article", { class: `incident ${isOpen ? "is-open" : "is-resolved"}`, "data-id": one.id, tabindex: "0", onpointerenter: light, onpointerleave: dark, onfocusin: light, onfocusout: dark },
    element("h3", null, element("span", { "aria-hidden": "true" }, isOpen ? "✗ " : "✓ "), one.title),
    element("p", { class: "meta" },
      isOpen ? ["open for ", element("span", { "data-since": one.opened_at })] : ["resolved ", element("span", { "data-since": one.resolved_at }), " ago"],
      ` · ${plural(total, "cell")} · `, element("code", null, one.id)),
    cause ? causeOf(one, cause, 0) : element("p", null, "Inconclusive: no cause fits what was measured."),
    one.causes.length > 1 && fold(`${one.id}/more`, `${one.causes.length - 1} more that fit`, one.causes.slice(1).map((other, at) => causeOf(one, other, at + 1))),
    one.missing_evidence?.length > 0 && list("Missing evidence", one.missing_evidence),
    !cause && one.ruled_out?.length > 0 && list("Ruled out", one.ruled_out),
    one.cells.length > 0 && fold(`${one.id}/cells`, `Cells concerned (${total})`, element("ul", { class: "cells" },
      one.cells.slice(0, 40).map((cell) => element("li", null, element("button", { type: "button", class: "link", onclick: () => on.show(cell) },
        `${cell.source} → ${cell.destination}`), ` ${cell.kind}`)),
      total > 40 && element("li", null, `and ${total - Math.min(40, one.cells.length)} more`))));
}

function causeOf(one, cause, at) {
  const named = objectName(cause.object);
  return element("div", { class: "cause" },
    element("p", { class: "code" }, element("code", null, cause.code), cause.confidence > 0 && ` confidence ${Math.round(cause.confidence * 100)} %`),
    element("p", { class: "object" }, named),
    cause.object.text && element("pre", null, cause.object.text),
    cause.summary !== one.title && element("p", { class: "says" }, cause.summary),
    cause.fix && element("div", { class: "fix" }, element("span", null, "mend"), element("code", null, cause.fix),
      element("button", { type: "button", onclick: (event) => copy(cause.fix, event.currentTarget), "aria-label": `copy the mend: ${cause.fix}` }, "copy")),
    cause.evidence?.length > 0 && fold(`${one.id}/evidence/${at}`, `Evidence (${cause.evidence.length})`, element("ul", { class: "evidence" },
      cause.evidence.map((fact) => element("li", null, fact.says, numbers(fact))))));
}

function numbers(fact) {
  const parts = [fact.fact, fact.node];
  if (fact.before !== undefined || fact.after !== undefined) parts.push(`${fact.before ?? "?"} → ${fact.after ?? "?"}`);
  parts.push(fact.value);
  return element("small", null, parts.filter(Boolean).join(" · "));
}

export function objectName(object) {
  const name = object.namespace ? `${object.namespace}/${object.name}` : object.name;
  return `${object.kind} ${name}${object.node && object.kind !== "Node" ? ` on ${object.node}` : ""}`;
}

function fold(key, title, ...content) {
  const made = element("details", { open: unfolded.has(key) }, element("summary", null, title), ...content);
  made.addEventListener("toggle", () => (made.open ? unfolded.add(key) : unfolded.delete(key)));
  return made;
}

const list = (title, lines) => element("div", { class: "lines" }, element("h4", null, title), element("ul", null, lines.map((line) => element("li", null, line))));
const newestFirst = (a, b) => (b.resolved_at ?? b.opened_at).localeCompare(a.resolved_at ?? a.opened_at);
