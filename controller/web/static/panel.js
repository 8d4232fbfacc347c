// The opened cell: what it says, the paths it is made of, the incidents that explain it.

import { badge, byId, element, fill } from "./dom.js";
import { concerning } from "./incidents.js";
import { age, BY_CODE, BY_POLICY, codeOf, loss, plural, time, VERDICTS } from "./looks.js";

export function drawPanel(cell, paths, on) {
  const box = byId("cell");
  const explained = concerning(cell.kind, cell.source, cell.destination);
  fill(box,
    element("div", { class: "row" },
      element("h2", { id: "cell-title" }, cell.source, element("span", { class: "arrow", "aria-label": "to" }, " → "), cell.destination),
      element("button", { type: "button", class: "close", "aria-label": "Close this cell", onclick: on.close }, "✕")),
    element("p", null, badge(cell.look), ` · ${VERDICTS[cell.verdict] ?? cell.verdict}`),
    element("p", { class: "meta" }, `loss ${loss(cell.loss)} · ${time(cell.rtt)} · measured ${cell.age === null ? "never" : `${age(cell.age)} ago`}`),
    cell.expected && element("p", { class: "meta" }, `policies: ${cell.expected}`),
    explained.map((one) => element("p", null, element("button", { type: "button", class: "link", onclick: () => on.incident(one.id) }, `explained by: ${one.title}`))),
    !BY_POLICY.has(cell.kind) && pathTable(paths));
  box.hidden = false;
}

function pathTable(paths) {
  if (paths === null) return element("p", { class: "meta" }, "reading its paths…");
  if (paths instanceof Error) return element("p", { class: "meta" }, `its paths cannot be read: ${paths.message}`);
  if (!paths.length) return element("p", { class: "meta" }, `no path of this cell is probed${paths.unsampled ? `: ${paths.unsampled}` : ""}`);
  return element("table", null,
    element("caption", null, plural(paths.length, "path")),
    element("thead", null, element("tr", null, ["path", "state", "loss", "time", "age"].map((name, at) => element("th", { class: at > 1 && "n" }, name)))),
    element("tbody", null, paths.map((path) => {
      const look = BY_CODE[codeOf(path.state, path.verdict)];
      return element("tr", null,
        element("td", null, nameOf(path), element("small", null, detailOf(path))),
        element("td", null, badge(look, look.name)),
        element("td", { class: "n" }, loss(path.loss ?? 0)),
        element("td", { class: "n" }, time(path.rtt_us)),
        element("td", { class: "n" }, age(path.age_s)));
    })));
}

function nameOf(path) {
  return [path.network, path.over_tcp ? `${path.method} over tcp` : path.method, `IPv${path.family}`].filter(Boolean).join(" · ");
}

function detailOf(path) {
  const address = path.address && (path.port ? `${path.address.includes(":") ? `[${path.address}]` : path.address}:${path.port}` : path.address);
  const outcome = path.outcome && path.outcome !== "ok" ? path.outcome.replaceAll("_", " ") : "";
  return [path.vantage, path.target, path.name, address, outcome, path.detail].filter(Boolean).join(" · ");
}
