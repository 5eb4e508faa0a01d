// Lines of the last 15 minutes on a canvas: small, exact, no animation.

import { typeScale } from "./text.js";

const LEAST_S = 120;

function padding() {
  const scale = typeScale();
  return { left: 52 * scale, right: 12 * scale, top: 12 * scale, bottom: 22 * scale, scale };
}

export function fit(canvas) {
  const scale = devicePixelRatio || 1;
  const wide = canvas.clientWidth;
  const high = canvas.clientHeight;
  const deviceWide = Math.round(wide * scale);
  const deviceHigh = Math.round(high * scale);
  if (canvas.width !== deviceWide || canvas.height !== deviceHigh) {
    canvas.width = deviceWide;
    canvas.height = deviceHigh;
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, wide, high);
  return { pen, wide, high };
}

// Round steps of 1, 2, 2.5 or 5 · 10ⁿ so that `span` has at most `most` of them.
export function niceStep(span, most) {
  const raw = span / most;
  const power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((step) => step >= raw);
}

// A line whose gaps stay gaps: NaN and null break it.
function trace(pen, times, values, toX, toY) {
  pen.beginPath();
  let isOpen = false;
  for (let index = 0; index < values.length; index += 1) {
    const value = values[index];
    if (value === null || Number.isNaN(value)) {
      isOpen = false;
      continue;
    }
    if (isOpen) pen.lineTo(toX(times[index]), toY(value));
    else pen.moveTo(toX(times[index]), toY(value));
    isOpen = true;
  }
}

export class LineChart {
  // format: value → text; zero: whether the axis starts at 0 (only then is an area filled).
  constructor(canvas, { format, zero }) {
    this.canvas = canvas;
    this.format = format;
    this.zero = zero;
    this.data = null;
    this.pointer = null;
    canvas.addEventListener("pointermove", (event) => {
      this.pointer = event.offsetX;
      this.draw();
    });
    canvas.addEventListener("pointerleave", () => {
      this.pointer = null;
      this.draw();
    });
    this.watch = new ResizeObserver(() => this.draw());
    this.watch.observe(canvas);
  }

  close() {
    this.watch.disconnect();
  }

  // times in seconds; series: [{values, colour, dashed, name}]; references: [{value, name}].
  show(times, series, references, colours) {
    this.data = { times, series, references, colours };
    this.draw();
  }

  range() {
    const { series, references } = this.data;
    let low = Infinity;
    let high = -Infinity;
    const take = (value) => {
      if (value === null || Number.isNaN(value)) return;
      if (value < low) low = value;
      if (value > high) high = value;
    };
    for (const { values } of series) values.forEach(take);
    for (const { value } of references) take(value);
    if (low > high) return null;
    if (this.zero) return [0, high * 1.08];
    const room = Math.max((high - low) * 0.25, Math.abs(high) * 0.01, 1e-9);
    return [low - room, high + room];
  }

  draw() {
    if (!this.data || !this.canvas.clientWidth) return;
    const { pen, wide, high } = fit(this.canvas);
    const { times } = this.data;
    const range = this.range();
    const PAD = padding();
    pen.font = `${11 * PAD.scale}px ${getComputedStyle(this.canvas).fontFamily}`;
    if (!range) {
      this.label(pen, "No values in the last 15 minutes", PAD.left, high / 2, this.data.colours.dim);
      return;
    }
    const [low, top] = range;
    const end = times.at(-1) ?? 0;
    const innerWide = wide - PAD.left - PAD.right;
    const innerHigh = high - PAD.top - PAD.bottom;
    // Whole minutes from 2 on: a centre that has just started is not drawn into a corner.
    const span = Math.max(LEAST_S, 60 * Math.ceil((end - (times[0] ?? end)) / 60));
    const toX = (time) => PAD.left + innerWide * (1 - (end - time) / span);
    const toY = (value) => PAD.top + innerHigh * (1 - (value - low) / (top - low));
    const frame = { pen, wide, high, low, top, end, span, toX, toY, bottom: high - PAD.bottom, PAD };
    this.drawGrid(frame);
    pen.save();
    pen.beginPath();
    pen.rect(PAD.left, 0, innerWide + 1, high);
    pen.clip();
    this.drawSeries(frame);
    pen.restore();
    this.drawReferences(frame);
    if (this.pointer !== null) this.drawCursor(frame);
  }

  drawGrid({ pen, wide, low, top, end, span, toX, toY, bottom, PAD }) {
    const { colours } = this.data;
    pen.lineWidth = 1;
    pen.strokeStyle = colours.grid;
    pen.fillStyle = colours.dim;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    const step = niceStep(top - low, 4);
    for (let value = Math.ceil(low / step) * step; value <= top; value += step) {
      const y = Math.round(toY(value)) + 0.5;
      pen.beginPath();
      pen.moveTo(PAD.left, y);
      pen.lineTo(wide - PAD.right, y);
      pen.stroke();
      pen.fillText(this.format(value, step), PAD.left - 8, y);
    }
    pen.textAlign = "center";
    pen.textBaseline = "alphabetic";
    const every = span > 600 ? 300 : span > 180 ? 60 : 30;
    for (let time = Math.ceil((end - span) / every) * every; end && time <= end; time += every) {
      const x = toX(time);
      if (x < PAD.left + 14 || x > wide - 18) continue;
      pen.fillText(clock(time).slice(0, every < 60 ? 8 : 5), x, bottom + 16 * PAD.scale);
    }
  }

  drawSeries(frame) {
    const { pen, toX, toY, bottom } = frame;
    for (const { values, colour, dashed } of this.data.series) {
      trace(pen, this.data.times, values, toX, toY);
      pen.strokeStyle = colour;
      pen.lineWidth = dashed ? 1.25 : 1.75;
      pen.lineJoin = "round";
      pen.setLineDash(dashed ? [2, 3] : []);
      pen.stroke();
      pen.setLineDash([]);
      if (this.zero && !dashed) this.fillBelow(pen, values, colour, toX, toY, bottom);
    }
  }

  // An area only under an unbroken line from zero; with gaps the line alone is honest.
  fillBelow(pen, values, colour, toX, toY, bottom) {
    const { times } = this.data;
    if (values.length < 2 || values.some((value) => value === null || Number.isNaN(value))) return;
    trace(pen, times, values, toX, toY);
    pen.lineTo(toX(times.at(-1)), bottom);
    pen.lineTo(toX(times[0]), bottom);
    pen.closePath();
    pen.globalAlpha = 0.13;
    pen.fillStyle = colour;
    pen.fill();
    pen.globalAlpha = 1;
  }

  drawReferences({ pen, wide, toY, toX, PAD }) {
    const { colours, references, series, times } = this.data;
    pen.textAlign = "left";
    pen.textBaseline = "alphabetic";
    for (const { value, name } of references) {
      const y = Math.round(toY(value)) + 0.5;
      pen.strokeStyle = colours.reference;
      pen.lineWidth = 1;
      pen.setLineDash([5, 4]);
      pen.beginPath();
      pen.moveTo(PAD.left, y);
      pen.lineTo(wide - PAD.right, y);
      pen.stroke();
      pen.setLineDash([]);
      pen.textAlign = "right";
      this.label(pen, name, wide - PAD.right - 4, y - 5 * PAD.scale, colours.dim);
      pen.textAlign = "left";
    }
    for (const { values, name, dashed } of series) {
      const last = values.at(-1);
      if (!dashed || !name || last === null || last === undefined || Number.isNaN(last)) continue;
      const left = Math.min(wide - PAD.right - pen.measureText(name).width, Math.max(PAD.left, toX(times[0])) + 6);
      this.label(pen, name, left, toY(last) + 14 * PAD.scale, colours.dim);
    }
  }

  label(pen, text, x, y, colour) {
    pen.fillStyle = colour;
    pen.fillText(text, x, y);
  }

  drawCursor({ pen, wide, toX, toY, bottom, PAD }) {
    const { times, series, colours } = this.data;
    let nearest = -1;
    let least = 24;
    for (let index = 0; index < times.length; index += 1) {
      const distance = Math.abs(toX(times[index]) - this.pointer);
      if (distance < least) {
        least = distance;
        nearest = index;
      }
    }
    if (nearest < 0) return;
    const x = Math.round(toX(times[nearest])) + 0.5;
    pen.strokeStyle = colours.dim;
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(x, PAD.top);
    pen.lineTo(x, bottom);
    pen.stroke();
    const solid = series.filter(({ dashed }) => !dashed);
    const said = solid.map(({ values }) => this.format(values[nearest], null)).join("  ");
    const text = `${clock(times[nearest])} UTC   ${said}`;
    const textWide = pen.measureText(text).width + 12;
    const left = Math.min(wide - PAD.right - textWide, Math.max(PAD.left, x - textWide / 2));
    pen.fillStyle = colours.raised;
    pen.fillRect(left, 0, textWide, 18 * PAD.scale);
    pen.textAlign = "left";
    pen.textBaseline = "middle";
    this.label(pen, text, left + 6, 9.5 * PAD.scale, colours.text);
    for (const { values, colour } of solid) {
      if (values[nearest] === null || Number.isNaN(values[nearest])) continue;
      pen.beginPath();
      pen.arc(x, toY(values[nearest]), 3, 0, 2 * Math.PI);
      pen.fillStyle = colour;
      pen.fill();
    }
  }
}

function clock(seconds) {
  return new Date(seconds * 1000).toISOString().slice(11, 19);
}

// A word-sized line with its own range; the last point is marked.
export function drawSpark(canvas, values, colour) {
  if (!canvas?.clientWidth) return;
  const { pen, wide, high } = fit(canvas);
  const known = values.filter((value) => value !== null && !Number.isNaN(value));
  if (known.length < 2) return;
  const low = known.reduce((a, b) => Math.min(a, b));
  const top = known.reduce((a, b) => Math.max(a, b));
  // A flat line must look flat: the range is never below 5 % of the value.
  const span = Math.max(top - low, Math.abs(top) * 0.05, 1e-9);
  const middle = (top + low) / 2;
  const toX = (index) => 1 + (wide - 6) * (index / (values.length - 1));
  const toY = (value) => high / 2 - (high - 8) * ((value - middle) / span);
  trace(pen, values.map((_, index) => index), values, toX, toY);
  pen.strokeStyle = colour;
  pen.lineWidth = 1.5;
  pen.lineJoin = "round";
  pen.stroke();
  const last = values.at(-1);
  if (last === null || Number.isNaN(last)) return;
  pen.beginPath();
  pen.arc(toX(values.length - 1), toY(last), 2.25, 0, 2 * Math.PI);
  pen.fillStyle = colour;
  pen.fill();
}
