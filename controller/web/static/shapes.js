// How one cell is drawn: a filled square and, where there is room, the glyph of its meaning as lines, so that nothing
// is said by colour alone.

import { ALLOWED, BLOCKED, DEGRADED, DENIED, FAILING, OK, OPEN, PARTLY, STALE, STARVED, UNKNOWN, UNSAMPLED } from "./looks.js";

const GLYPH_FROM = 11;

// Lines within a unit square, as [x, y, x, y, …] strokes.
const STROKES = {
  [OK]: [[0.22, 0.54, 0.42, 0.74, 0.78, 0.28]],
  [FAILING]: [[0.22, 0.22, 0.78, 0.78], [0.78, 0.22, 0.22, 0.78]],
  [DEGRADED]: [[0.5, 0.2, 0.82, 0.78, 0.18, 0.78, 0.5, 0.2]],
  [OPEN]: [[0.5, 0.16, 0.5, 0.6], [0.5, 0.78, 0.5, 0.84]],
  [UNKNOWN]: [[0.32, 0.34, 0.38, 0.22, 0.56, 0.18, 0.68, 0.3, 0.62, 0.44, 0.5, 0.52, 0.5, 0.62], [0.5, 0.8, 0.5, 0.84]],
  [STALE]: [[0.14, 0.58, 0.3, 0.42, 0.48, 0.52, 0.64, 0.6, 0.86, 0.42]],
  [ALLOWED]: [[0.5, 0.24, 0.5, 0.76], [0.24, 0.5, 0.76, 0.5]],
  [PARTLY]: [[0.5, 0.16, 0.5, 0.6], [0.28, 0.38, 0.72, 0.38], [0.28, 0.8, 0.72, 0.8]],
  [DENIED]: [[0.26, 0.5, 0.74, 0.5]],
  [STARVED]: [[0.2, 0.5, 0.24, 0.5], [0.48, 0.5, 0.52, 0.5], [0.76, 0.5, 0.8, 0.5]],
};
const DASHED = new Set([UNSAMPLED]);

export function drawCell(paint, code, x, y, size, colours) {
  const gap = size >= 24 ? 3 : size >= 8 ? 1 : 0;
  const side = size - gap, radius = size >= 24 ? 5 : 0;
  if (DASHED.has(code)) {
    outline(paint, x, y, side, radius, colours.faint);
    return;
  }
  paint.fillStyle = colours.fill[code];
  if (radius) {
    paint.beginPath();
    paint.roundRect(x, y, side, side, radius);
    paint.fill();
  } else paint.fillRect(x, y, side, side);
  if (size < GLYPH_FROM) return;
  const mark = Math.min(side * (size >= 56 ? 0.34 : 0.62), 28);
  const left = x + (side - mark) / 2, top = y + (size >= 56 ? side * 0.2 : (side - mark) / 2);
  paint.strokeStyle = colours.ink[code];
  paint.lineWidth = Math.max(1.4, mark / 9);
  paint.lineCap = paint.lineJoin = "round";
  paint.beginPath();
  if (code === BLOCKED) {
    paint.arc(left + mark / 2, top + mark / 2, mark * 0.36, 0, 2 * Math.PI);
    paint.moveTo(left + mark * 0.25, top + mark * 0.75);
    paint.lineTo(left + mark * 0.75, top + mark * 0.25);
  }
  for (const points of STROKES[code] ?? []) {
    paint.moveTo(left + points[0] * mark, top + points[1] * mark);
    for (let i = 2; i < points.length; i += 2) paint.lineTo(left + points[i] * mark, top + points[i + 1] * mark);
  }
  paint.stroke();
}

export function outline(paint, x, y, side, radius, colour, width = 1) {
  paint.strokeStyle = colour;
  paint.lineWidth = width;
  paint.beginPath();
  if (radius) paint.roundRect(x + 0.5, y + 0.5, side - 1, side - 1, radius);
  else paint.rect(x + 0.5, y + 0.5, Math.max(1, side - 1), Math.max(1, side - 1));
  paint.stroke();
}
