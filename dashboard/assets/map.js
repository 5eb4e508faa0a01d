// The map of every GPU on a canvas. Only cells that changed are drawn again.

import { ABSENT, STATE } from "./frame.js";
import { gpuAt, listGpus, neighbour, place } from "./geometry.js";
import { OTHER, TENANTS, colourTable } from "./scales.js";
import { go, typeScale } from "./text.js";

const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const FLAG = { throttled: 1, down: 2, silent: 4, unallocated: 8, absent: 16, other: 32 };
const PHONE_PX = 760;

export class GpuMap {
  constructor(canvas, tip, describe) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.tip = tip;
    this.describe = describe;
    this.mode = "temperature";
    this.selected = -1;
    this.readTheme();
    this.listen();
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointermove", (event) => this.hover(event));
    canvas.addEventListener("pointerleave", () => this.select(-1));
    canvas.addEventListener("click", () => this.openSelected());
    canvas.addEventListener("blur", () => this.select(-1));
    canvas.addEventListener("focus", () => {
      if (canvas.matches(":focus-visible") && this.selected < 0) this.select(0);
    });
    canvas.addEventListener("keydown", (event) => this.key(event));
    this.watch = new ResizeObserver(() => this.resize());
    this.watch.observe(canvas.parentElement);
  }

  close() {
    this.watch.disconnect();
  }

  readTheme() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    this.theme = document.documentElement.dataset.theme === "light" ? "light" : "dark";
    this.colours = {
      text: colour("--text"), dim: colour("--dim"), surface: colour("--surface"), empty: colour("--empty"),
      hatch: colour("--hatch"), ring: colour("--ring"), fault: colour("--fault"), focus: colour("--accent"),
    };
    this.tables = null;
    this.redrawAll();
  }

  setMode(mode) {
    this.mode = mode;
    this.tables = null;
    this.redrawAll();
  }

  show(frame, layout) {
    this.frame = frame;
    if (this.layoutId !== layout.id) {
      this.layoutId = layout.id;
      this.layout = layout;
      this.gpus = listGpus(layout);
      this.resize();
      return;
    }
    this.drawChanged();
    if (this.selected >= 0) this.showTip();
  }

  resize() {
    if (!this.layout) return;
    const box = this.canvas.parentElement;
    const flows = innerWidth < PHONE_PX;
    const width = box.clientWidth;
    const height = flows ? null : box.clientHeight;
    if (!width || (height !== null && height < 40)) return;
    this.placed = place(this.layout, width, height, typeScale());
    const shown = height ?? this.placed.height;
    this.scale = devicePixelRatio || 1;
    this.canvas.width = Math.round(width * this.scale);
    this.canvas.height = Math.round(Math.max(shown, this.placed.height) * this.scale);
    this.canvas.style.height = `${Math.max(shown, this.placed.height)}px`;
    this.redrawAll();
  }

  redrawAll() {
    if (!this.placed || !this.frame) return;
    this.drawn = new Int32Array(this.gpus.length).fill(-1);
    this.tables ??= this.mode === "tenant" ? null : colourTable(this.mode, this.theme);
    const { context: pen } = this;
    pen.setTransform(this.scale, 0, 0, this.scale, 0, 0);
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.drawLabels();
    this.drawChanged();
  }

  drawLabels() {
    const { context: pen, colours } = this;
    const family = getComputedStyle(document.body).fontFamily;
    const scale = typeScale();
    for (const label of this.placed.labels) {
      pen.font = `${label.hall ? 600 : 450} ${(label.hall ? 12 : 10.5) * scale}px ${family}`;
      pen.fillStyle = label.hall ? colours.text : colours.dim;
      pen.fillText(label.text, label.x, label.y);
      if (!label.hall) continue;
      const wide = pen.measureText(label.text).width;
      pen.font = `450 ${11.5 * scale}px ${family}`;
      pen.fillStyle = colours.dim;
      pen.fillText(label.detail, label.x + wide + 10 * scale, label.y);
    }
  }

  // What a cell looks like, as one integer: colour index and flags.
  look(gpu) {
    const { columns } = this.frame;
    const state = columns.state[gpu];
    let flags = 0;
    if (state & STATE.down) flags |= FLAG.down;
    else if (!(state & STATE.reporting)) flags |= FLAG.silent;
    if (state & STATE.throttled) flags |= FLAG.throttled;
    if (this.mode === "tenant") {
      const rank = columns.tenant[gpu];
      if (rank === 255) flags |= FLAG.unallocated;
      if (rank === 254) flags |= FLAG.other;
      return rank | (flags << 8);
    }
    const value = columns[this.column][gpu];
    if (value === ABSENT) flags |= FLAG.absent;
    return value | (flags << 8);
  }

  get column() {
    return { temperature: "temperature_c", utilization: "utilization", power: "power_w", delivered: "delivered" }[this.mode];
  }

  drawChanged() {
    if (!this.placed || !this.drawn) return;
    for (let gpu = 0; gpu < this.drawn.length; gpu += 1) {
      const look = this.look(gpu);
      if (look === this.drawn[gpu]) continue;
      this.drawn[gpu] = look;
      this.drawCell(gpu, look);
    }
    if (this.selected >= 0) this.drawFocus(this.selected);
  }

  drawCell(gpu, look) {
    const { context: pen, placed, colours } = this;
    const left = placed.x[gpu];
    const top = placed.y[gpu];
    const gap = placed.cellWide >= 7 ? 1 : 0.5;
    const wide = placed.cellWide - gap;
    const high = placed.cellHigh - gap;
    const flags = look >> 8;
    const value = look & 255;
    pen.fillStyle = colours.surface;
    pen.fillRect(left - 0.5, top - 0.5, placed.cellWide, placed.cellHigh);
    const isBare = flags & (FLAG.down | FLAG.silent | FLAG.absent | FLAG.unallocated);
    pen.fillStyle = isBare ? colours.empty : this.fill(value, flags);
    pen.fillRect(left, top, wide, high);
    if (flags & FLAG.down) this.drawCross(left, top, wide, high);
    else if (flags & FLAG.silent) this.drawHatch(left, top, wide, high);
    else if (flags & FLAG.absent) this.drawDot(left, top, wide, high);
    if (flags & FLAG.throttled) this.drawRing(left, top, wide, high, colours.ring);
  }

  fill(value, flags) {
    if (this.mode !== "tenant") return this.tables[value];
    return flags & FLAG.other ? OTHER : TENANTS[value % TENANTS.length];
  }

  drawRing(left, top, wide, high, colour) {
    const { context: pen } = this;
    pen.lineWidth = wide >= 9 ? 2 : 1.25;
    pen.strokeStyle = colour;
    const inset = pen.lineWidth / 2;
    pen.strokeRect(left + inset, top + inset, wide - 2 * inset, high - 2 * inset);
  }

  drawCross(left, top, wide, high) {
    const { context: pen, colours } = this;
    this.drawRing(left, top, wide, high, colours.fault);
    pen.lineWidth = 1.25;
    pen.beginPath();
    pen.moveTo(left + 2, top + 2);
    pen.lineTo(left + wide - 2, top + high - 2);
    pen.moveTo(left + wide - 2, top + 2);
    pen.lineTo(left + 2, top + high - 2);
    pen.stroke();
  }

  drawHatch(left, top, wide, high) {
    const { context: pen, colours } = this;
    pen.save();
    pen.beginPath();
    pen.rect(left, top, wide, high);
    pen.clip();
    pen.strokeStyle = colours.hatch;
    pen.lineWidth = 1.25;
    pen.beginPath();
    // The phase follows the page, so that neighbouring cells make one hatched field.
    const from = left + top - ((left + top) % 5) - 5;
    for (let sum = from; sum < left + top + wide + high; sum += 5) {
      pen.moveTo(sum - top, top);
      pen.lineTo(sum - top - high, top + high);
    }
    pen.stroke();
    pen.restore();
  }

  drawDot(left, top, wide, high) {
    const { context: pen, colours } = this;
    pen.fillStyle = colours.hatch;
    pen.fillRect(left + wide / 2 - 1, top + high / 2 - 1, 2, 2);
  }

  drawFocus(gpu) {
    const { context: pen, placed, colours } = this;
    pen.lineWidth = 2;
    pen.strokeStyle = colours.focus;
    pen.strokeRect(placed.x[gpu] - 0.5, placed.y[gpu] - 0.5, placed.cellWide, placed.cellHigh);
    this.focused = gpu;
  }

  // A focus ring reaches into its neighbours: those are drawn again with the cell.
  eraseFocus() {
    const gpu = this.focused;
    if (gpu === undefined || gpu < 0 || !this.drawn) return;
    const { placed } = this;
    this.context.clearRect(placed.x[gpu] - 2, placed.y[gpu] - 2, placed.cellWide + 3, placed.cellHigh + 3);
    for (let other = 0; other < this.drawn.length; other += 1) {
      const near = Math.abs(placed.x[other] - placed.x[gpu]) <= placed.cellWide + 2;
      if (near && Math.abs(placed.y[other] - placed.y[gpu]) <= placed.cellHigh + 2) this.drawn[other] = -1;
    }
    this.focused = -1;
  }

  select(gpu) {
    if (gpu === this.selected) return;
    this.eraseFocus();
    this.selected = gpu;
    this.drawChanged();
    this.tip.hidden = gpu < 0;
    if (gpu >= 0) this.showTip();
  }

  hover(event) {
    if (!this.placed) return;
    const box = this.canvas.getBoundingClientRect();
    this.select(gpuAt(this.placed, event.clientX - box.left, event.clientY - box.top));
    this.canvas.style.cursor = this.selected >= 0 ? "pointer" : "default";
  }

  key(event) {
    if (!this.placed) return;
    if (event.key === "Enter") this.openSelected();
    else if (event.key === "Escape") this.select(-1);
    else if (event.key in KEYS) this.select(this.selected < 0 ? 0 : neighbour(this.placed, this.selected, ...KEYS[event.key]));
    else return;
    event.preventDefault();
  }

  openSelected() {
    if (this.selected >= 0) go(`/nodes/${encodeURIComponent(this.gpus[this.selected].node)}`);
  }

  showTip() {
    const { tip, placed, selected } = this;
    this.describe(tip, this.gpus[selected], selected, this.frame);
    const name = `${this.gpus[selected].node}, GPU ${this.gpus[selected].index}`;
    this.canvas.setAttribute("aria-label", `Map of every GPU: ${name}. Arrow keys move, Enter opens the node.`);
    const room = this.canvas.clientWidth - tip.offsetWidth;
    const left = Math.min(room, Math.max(0, placed.x[selected] + placed.cellWide + 8));
    const covers = left < placed.x[selected] + placed.cellWide + 8;
    tip.style.left = `${covers ? Math.max(0, placed.x[selected] - tip.offsetWidth - 8) : left}px`;
    const lowest = Math.max(0, this.canvas.clientHeight - tip.offsetHeight);
    tip.style.top = `${Math.min(lowest, Math.max(0, placed.y[selected] - 20))}px`;
  }
}
