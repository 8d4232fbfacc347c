// The matrix on a canvas: only what is visible is drawn. Fires `cell` (opened), `hover` and `cursor` through callbacks;
// it knows nothing of the API and nothing of the rest of the page.

import { AS_IT_SHOULD, BY_CODE, time } from "./looks.js";
import { drawCell, outline } from "./shapes.js";

const LARGEST = 84, LARGEST_BY_HAND = 140, LABEL_MOST = 190, SMALL = 7, STANDS_OUT = 4;
const FONT = "12px system-ui, sans-serif";

export class Grid {
  constructor(scroller, space, canvas, on) {
    Object.assign(this, { scroller, space, canvas, on });
    this.paint = canvas.getContext("2d");
    this.matrix = null;
    this.zoom = 0;                 // 0 is "fit", else a cell's size in CSS pixels
    this.hover = this.selected = this.cursor = -1;
    this.lit = null;               // Set of cells that an incident concerns
    this.waiting = false;
    new ResizeObserver(() => this.layout()).observe(scroller);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { this.readColours(); this.draw(); });
    scroller.addEventListener("scroll", () => { this.on.hover(-1); this.draw(); });
    scroller.addEventListener("pointermove", (event) => this.point(event));
    scroller.addEventListener("pointerleave", () => this.setHover(-1));
    scroller.addEventListener("click", (event) => { const at = this.at(event); if (at >= 0) this.open(at); });
    scroller.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      this.step(event.deltaY < 0 ? 1 : -1);
    }, { passive: false });
    scroller.addEventListener("keydown", (event) => this.key(event));
    scroller.addEventListener("focus", () => { if (this.cursor < 0 && this.matrix?.code.length) this.cursor = 0; this.draw(); });
    scroller.addEventListener("blur", () => this.draw());
    this.readColours();
  }

  readColours() {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(name).trim();
    this.colours = {
      fill: BY_CODE.map((look) => read(`--${look.name}`)), ink: BY_CODE.map((look) => read(`--${look.name}-ink`)),
      text: read("--text"), soft: read("--soft"), faint: read("--line"), accent: read("--accent"), back: read("--card"),
    };
    this.pixels = this.colours.fill.map(asPixel);
  }

  show(matrix) {
    const other = !this.matrix || this.matrix.kind !== matrix.kind;
    const old = this.matrix;
    this.matrix = matrix;
    if (other) {
      this.zoom = 0;
      this.hover = this.selected = this.cursor = -1;
    } else {
      const moved = (at) => (at < 0 ? -1 : matrix.indexOf(...ends(old, at)));
      [this.hover, this.selected, this.cursor] = [this.hover, this.selected, this.cursor].map(moved);
    }
    this.paint.font = FONT;
    this.measured = [matrix.rows, matrix.columns].map((names) => widest(this.paint, names));
    this.layout();
  }

  layout() {
    if (!this.matrix) return;
    const { clientWidth: width, clientHeight: height } = this.scroller;
    const rows = this.matrix.rows.length, columns = this.matrix.columns.length;
    this.left = Math.min(this.measured[0], LABEL_MOST) + 18;
    const slanted = Math.min(this.measured[1], LABEL_MOST);
    const fit = (top) => Math.floor(Math.min((width - this.left - 24) / columns, (height - top - 8) / rows));
    const flat = this.zoom || Math.min(LARGEST, fit(30));
    this.flat = flat >= this.measured[1] + 10;
    this.top = this.flat ? 30 : Math.ceil(slanted * 0.78) + 22;
    this.size = Math.max(1, this.zoom || Math.min(LARGEST, fit(this.top)));
    if (!this.flat && !this.zoom && this.size >= this.measured[1] + 10) this.size = Math.floor(this.measured[1] + 9);
    const overhang = this.flat ? 0 : Math.ceil(slanted * 0.7);
    this.space.style.width = `${Math.max(width, this.left + columns * this.size + (columns * this.size + this.left + overhang > width ? overhang : 0))}px`;
    this.space.style.height = `${Math.max(height, this.top + rows * this.size + 4)}px`;
    const ratio = devicePixelRatio || 1;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    Object.assign(this.scroller.dataset, { kind: this.matrix.kind, rows, columns, size: this.size, left: this.left, top: this.top });
    this.draw();
  }

  draw() {
    if (this.waiting || !this.matrix) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; this.render(); });
  }

  visible() {
    const { scrollLeft: x, scrollTop: y, clientWidth: width, clientHeight: height } = this.scroller;
    const { size, left, top, matrix } = this;
    return {
      x, y, width, height,
      firstColumn: Math.max(0, Math.floor(x / size)), firstRow: Math.max(0, Math.floor(y / size)),
      endColumn: Math.min(matrix.columns.length, Math.ceil((x + width - left) / size)),
      endRow: Math.min(matrix.rows.length, Math.ceil((y + height - top) / size)),
    };
  }

  render() {
    const { paint, matrix, left, top } = this;
    const seen = this.visible();
    const ratio = devicePixelRatio || 1;
    paint.setTransform(ratio, 0, 0, ratio, 0, 0);
    paint.clearRect(0, 0, seen.width, seen.height);
    if (!matrix.code.length) return;
    paint.save();
    paint.beginPath();
    paint.rect(left - 3, top - 3, seen.width, seen.height);
    paint.clip();
    if (this.size < SMALL) this.renderPixels(seen);
    else this.renderCells(seen);
    for (const [at, colour, width] of this.marks()) this.mark(at, seen, colour, width);
    paint.restore();
    this.renderLabels(seen);
  }

  renderCells(seen) {
    const { paint, matrix, size, left, top, colours } = this;
    const columns = matrix.columns.length;
    for (let row = seen.firstRow; row < seen.endRow; row++) {
      for (let column = seen.firstColumn; column < seen.endColumn; column++) {
        const at = row * columns + column, code = matrix.code[at];
        const x = left + column * size - seen.x, y = top + row * size - seen.y;
        paint.globalAlpha = this.lit && !this.lit.has(at) ? 0.3 : 1;
        drawCell(paint, code, x, y, size, colours);
        if (size >= 56 && matrix.rtt[at]) {
          paint.fillStyle = colours.ink[code];
          paint.font = "11px system-ui, sans-serif";
          paint.textAlign = "center";
          paint.textBaseline = "middle";
          paint.fillText(time(matrix.rtt[at]), x + (size - 3) / 2, y + size * 0.72, size - 8);
        }
      }
    }
    paint.globalAlpha = 1;
  }

  // One pixel a cell, enlarged without smoothing: a red cell among a million is never averaged away.
  renderPixels(seen) {
    const { paint, matrix, size, left, top, pixels } = this;
    const width = seen.endColumn - seen.firstColumn, height = seen.endRow - seen.firstRow;
    if (width <= 0 || height <= 0) return;
    const image = new ImageData(width, height), words = new Uint32Array(image.data.buffer);
    for (let row = 0, to = 0; row < height; row++) {
      let at = (seen.firstRow + row) * matrix.columns.length + seen.firstColumn;
      for (let column = 0; column < width; column++, at++, to++) {
        const pixel = pixels[matrix.code[at]];
        words[to] = this.lit && !this.lit.has(at) ? ((pixel & 0x00ffffff) | 0x55000000) >>> 0 : pixel;
      }
    }
    this.sheet ??= document.createElement("canvas");
    if (this.sheet.width < width) this.sheet.width = width;
    if (this.sheet.height < height) this.sheet.height = height;
    this.sheet.getContext("2d").putImageData(image, 0, 0);
    paint.imageSmoothingEnabled = false;
    const x = left + seen.firstColumn * size - seen.x, y = top + seen.firstRow * size - seen.y;
    paint.drawImage(this.sheet, 0, 0, width, height, x, y, width * size, height * size);
    if (size < STANDS_OUT) this.renderProblems(seen);
  }

  // What is wrong stands out by its size where a cell is hardly a point.
  renderProblems(seen) {
    const { paint, matrix, size, left, top, colours } = this;
    const columns = matrix.columns.length, grow = (STANDS_OUT - size) / 2;
    for (let row = seen.firstRow; row < seen.endRow; row++) {
      for (let column = seen.firstColumn; column < seen.endColumn; column++) {
        const at = row * columns + column, code = matrix.code[at];
        if (AS_IT_SHOULD.has(code) || (this.lit && !this.lit.has(at))) continue;
        paint.fillStyle = colours.fill[code];
        paint.fillRect(left + column * size - seen.x - grow, top + row * size - seen.y - grow, STANDS_OUT, STANDS_OUT);
      }
    }
  }

  marks() {
    const marks = [];
    if (this.hover >= 0) marks.push([this.hover, this.colours.text, 1.5]);
    if (this.cursor >= 0 && document.activeElement === this.scroller) marks.push([this.cursor, this.colours.accent, 2.5]);
    if (this.selected >= 0) marks.push([this.selected, this.colours.text, 2.5]);
    return marks;
  }

  mark(at, seen, colour, width) {
    const { size, left, top, paint } = this;
    const columns = this.matrix.columns.length;
    const x = left + (at % columns) * size - seen.x, y = top + Math.floor(at / columns) * size - seen.y;
    const gap = size >= 24 ? 3 : size >= 8 ? 1 : 0;
    const grow = size < SMALL ? 4 : 1;
    outline(paint, x - grow, y - grow, size - gap + 2 * grow, size >= 24 ? 6 : 0, colour, width);
  }

  renderLabels(seen) {
    const { paint, matrix, size, left, top, colours } = this;
    const columns = matrix.columns.length;
    const focus = this.hover >= 0 ? this.hover : this.selected;
    const hot = focus >= 0 ? [Math.floor(focus / columns), focus % columns] : [-1, -1];
    const every = Math.ceil(14 / size), gap = size >= 24 ? 3 : 0;
    paint.font = FONT;
    paint.textBaseline = "middle";
    paint.textAlign = "right";
    for (const row of labelled(seen.firstRow, seen.endRow, every, hot[0])) {
      const y = top + row * size - seen.y + (size - gap) / 2;
      if (y < top || y > seen.height - 4) continue;
      paint.fillStyle = row === hot[0] ? colours.text : colours.soft;
      paint.fillText(shortened(paint, matrix.rows[row], left - 16), left - 8, y);
    }
    for (const column of labelled(seen.firstColumn, seen.endColumn, every, hot[1])) {
      const x = left + column * size - seen.x + (size - gap) / 2;
      if (x < left - 2) continue;
      paint.fillStyle = column === hot[1] ? colours.text : colours.soft;
      paint.save();
      paint.translate(x, top - 8);
      if (this.flat) {
        paint.textAlign = "center";
        paint.translate(0, -6);
      } else {
        paint.rotate(-Math.PI * 0.28);
        paint.textAlign = "left";
      }
      paint.fillText(shortened(paint, matrix.columns[column], LABEL_MOST), 0, 0);
      paint.restore();
    }
  }

  at(event) {
    if (!this.matrix) return -1;
    const box = this.scroller.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    if (x < this.left || y < this.top) return -1;
    const column = Math.floor((x - this.left + this.scroller.scrollLeft) / this.size);
    const row = Math.floor((y - this.top + this.scroller.scrollTop) / this.size);
    return row < this.matrix.rows.length && column < this.matrix.columns.length ? row * this.matrix.columns.length + column : -1;
  }

  point(event) {
    this.setHover(this.at(event), event.clientX, event.clientY);
  }

  setHover(at, x = 0, y = 0) {
    if (at !== this.hover) { this.hover = at; this.draw(); }
    this.on.hover(at, x, y);
  }

  open(at) {
    this.selected = this.cursor = at;
    this.draw();
    this.on.open(at);
  }

  light(cells) {
    this.lit = cells?.size ? cells : null;
    this.draw();
  }

  step(direction) {
    const size = Math.round(direction > 0 ? Math.max(this.size + 1, this.size * 1.35) : Math.min(this.size - 1, this.size / 1.35));
    this.zoom = Math.min(LARGEST_BY_HAND, Math.max(1, size));
    this.layout();
  }

  fit() {
    this.zoom = 0;
    this.layout();
  }

  key(event) {
    const columns = this.matrix?.columns.length;
    if (!columns || event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -(this.cursor % columns), End: columns - 1 - (this.cursor % columns) };
    const move = moves[event.key];
    if (move !== undefined) {
      const to = this.cursor + move;
      const leavesRow = Math.abs(move) === 1 && Math.floor(to / columns) !== Math.floor(this.cursor / columns);
      if (to >= 0 && to < this.matrix.code.length && !leavesRow) this.cursor = to;
      this.reveal(this.cursor);
      this.on.cursor(this.cursor);
    } else if (event.key === "Enter" || event.key === " ") this.open(this.cursor);
    else if (event.key === "Escape") this.on.close();
    else if (event.key === "+" || event.key === "=") this.step(1);
    else if (event.key === "-") this.step(-1);
    else if (event.key === "0") this.fit();
    else return;
    event.preventDefault();
    this.draw();
  }

  reveal(at) {
    const columns = this.matrix.columns.length, { size, left, top, scroller } = this;
    const x = (at % columns) * size, y = Math.floor(at / columns) * size;
    if (x < scroller.scrollLeft) scroller.scrollLeft = x;
    if (y < scroller.scrollTop) scroller.scrollTop = y;
    if (x + size > scroller.scrollLeft + scroller.clientWidth - left) scroller.scrollLeft = x + size + left - scroller.clientWidth + 8;
    if (y + size > scroller.scrollTop + scroller.clientHeight - top) scroller.scrollTop = y + size + top - scroller.clientHeight + 8;
  }
}

const ends = (matrix, at) => [matrix.rows[Math.floor(at / matrix.columns.length)], matrix.columns[at % matrix.columns.length]];

function widest(paint, names) {
  // The longest by letters is near enough the widest, and measuring a thousand names is slow.
  const longest = [...names].sort((a, b) => b.length - a.length).slice(0, 60);
  return Math.ceil(longest.reduce((most, name) => Math.max(most, paint.measureText(name).width), 20)) + 2;
}

// Where not every label fits, every so many; the one under the pointer always, and not its nearest neighbours.
function labelled(first, end, every, hot) {
  const picked = [];
  for (let at = Math.ceil(first / every) * every; at < end; at += every) {
    if (hot < 0 || every === 1 || Math.abs(at - hot) >= every) picked.push(at);
  }
  if (every > 1 && hot >= first && hot < end) picked.push(hot);
  return picked;
}

function shortened(paint, text, room) {
  if (paint.measureText(text).width <= room) return text;
  let keep = text.length - 1;
  while (keep > 4 && paint.measureText(cut(text, keep)).width > room) keep--;
  return cut(text, keep);
}

// From the middle, since names differ at their ends.
function cut(text, keep) {
  const head = Math.ceil(keep / 2);
  return `${text.slice(0, head)}…${text.slice(text.length - (keep - head))}`;
}

function asPixel(colour) {
  const number = parseInt(colour.slice(1), 16);
  return ((255 << 24) | ((number & 255) << 16) | (number & 0xff00) | (number >> 16)) >>> 0;
}
