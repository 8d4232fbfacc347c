// One matrix in typed arrays: a thousand nodes are a million cells, too many for objects. Pure data, no page.

import { AS_IT_SHOULD, BY_CODE, codeOf, UNSAMPLED } from "./looks.js";

const VERDICT_NAMES = ["unknown", "healthy", "blocked_as_intended", "unexpected_block", "unexpected_pass"];

export class Matrix {
  constructor(document) {
    this.kind = document.by ?? document.kind;
    this.at = document.at;
    this.rows = document.rows;
    this.columns = document.columns;
    this.readAt = performance.now();
    this.rowOf = new Map(this.rows.map((name, at) => [name, at]));
    this.columnOf = new Map(this.columns.map((name, at) => [name, at]));
    const size = this.rows.length * this.columns.length;
    this.code = new Uint8Array(size);          // UNSAMPLED where the document has no cell
    this.verdict = new Uint8Array(size);
    this.loss = new Float32Array(size);
    this.rtt = new Uint32Array(size);
    this.age = new Float32Array(size).fill(NaN);
    this.ageAt = new Float64Array(size);
    this.failing = new Map();
    this.expected = new Map();               // what policies say, in words
    this.paths = new Uint16Array(size);
    this.counts = new Uint32Array(BY_CODE.length);
    this.counts[UNSAMPLED] = size;
    for (const cell of document.cells) this.put(cell);
  }

  // Takes a cell in. Returns its index, or -1 if the matrix has no such row or column: then it must be read anew.
  put(cell) {
    const row = this.rowOf.get(cell.source), column = this.columnOf.get(cell.destination);
    if (row === undefined || column === undefined) return -1;
    const at = row * this.columns.length + column;
    this.counts[this.code[at]]--;
    this.code[at] = codeOf(cell.state, cell.verdict, cell.expected);
    this.counts[this.code[at]]++;
    this.verdict[at] = Math.max(0, VERDICT_NAMES.indexOf(cell.verdict));
    this.loss[at] = cell.loss ?? 0;
    this.rtt[at] = cell.rtt_us ?? 0;
    this.age[at] = cell.age_s ?? NaN;
    this.ageAt[at] = performance.now();
    this.paths[at] = cell.paths ?? 0;
    if (cell.failing?.length) this.failing.set(at, cell.failing);
    else this.failing.delete(at);
    if (cell.expected) this.expected.set(at, [cell.expected, ...cell.ports ?? []].join(" · "));
    return at;
  }

  cell(at) {
    const width = this.columns.length;
    return {
      at, kind: this.kind, source: this.rows[Math.floor(at / width)], destination: this.columns[at % width],
      look: BY_CODE[this.code[at]], verdict: VERDICT_NAMES[this.verdict[at]], loss: this.loss[at], rtt: this.rtt[at],
      age: Number.isNaN(this.age[at]) ? null : this.age[at] + (performance.now() - this.ageAt[at]) / 1000,
      paths: this.paths[at], failing: this.failing.get(at) ?? [], expected: this.expected.get(at) ?? "",
    };
  }

  indexOf(source, destination) {
    const row = this.rowOf.get(source), column = this.columnOf.get(destination);
    return row === undefined || column === undefined ? -1 : row * this.columns.length + column;
  }

  // Cells that are not as they should be, failing ones first; at most `limit`.
  problems(limit) {
    const bins = BY_CODE.map(() => []);
    for (let at = 0; at < this.code.length; at++) {
      const code = this.code[at];
      if (!AS_IT_SHOULD.has(code) && bins[code].length < limit) bins[code].push(at);
    }
    return bins.flat().slice(0, limit);
  }

  get problemCount() {
    return this.counts.reduce((sum, count, code) => sum + (AS_IT_SHOULD.has(code) ? 0 : count), 0);
  }

  get measuredCount() {
    return this.code.length - this.counts[UNSAMPLED];
  }

  // Seconds since the newest observation of all; null if there is none.
  get newest() {
    let best = Infinity;
    const now = performance.now();
    for (let at = 0; at < this.age.length; at++) {
      const seconds = this.age[at] + (now - this.ageAt[at]) / 1000;
      if (seconds < best) best = seconds;
    }
    return best === Infinity ? null : best;
  }
}
