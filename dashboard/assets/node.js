// The Node page: one cursor over all charts, its values in the table, one GPU alone on demand.

import { getJson } from "./feed.js";
import { element, go, number } from "./text.js";

export class NodeView {
  constructor(root) {
    this.root = root;
    this.alone = null;
    this.onClick = (event) => this.click(event);
    root.addEventListener("click", this.onClick);
    this.watch = new MutationObserver(() => this.bind());
    this.watch.observe(root, { childList: true, subtree: true });
    this.bind();
    this.makePicker();
  }

  // The browser's own list of suggestions: searchable, and at home on every device.
  async makePicker() {
    const place = this.root.querySelector("#nd-picker");
    if (!place) return;
    const input = element("input", "nd-filter");
    input.type = "search";
    input.placeholder = "Another node";
    input.setAttribute("aria-label", "Go to another node");
    input.setAttribute("list", "nd-names");
    const names = element("datalist");
    names.id = "nd-names";
    place.replaceChildren(input, names);
    const { nodes } = await getJson("/api/v1/nodes");
    const known = new Set(nodes.map(({ node }) => node));
    names.replaceChildren(...[...known].map((name) => new Option(name)));
    input.addEventListener("change", () => {
      if (known.has(input.value)) go(`/nodes/${encodeURIComponent(input.value)}`);
    });
  }

  close() {
    this.watch.disconnect();
  }

  // Plotly makes its own element inside Dash's, some time after the page is there.
  bind() {
    const graph = this.root.querySelector("#nd-charts .js-plotly-plot");
    if (!graph || graph === this.graph || !graph.on) return;
    this.graph = graph;
    graph.on("plotly_hover", (event) => this.showAt(event.xvals?.[0] ?? event.points[0]?.x));
    graph.on("plotly_unhover", () => this.showLatest());
    graph.on("plotly_afterplot", () => {
      this.applyAlone();
      if (!this.isHovering) this.showLatest();
    });
    this.showLatest();
  }

  showAt(x) {
    const moment = typeof x === "number" ? x : Date.parse(`${String(x).replace(" ", "T")}Z`);
    this.isHovering = true;
    this.moment(`at ${new Date(moment).toISOString().slice(11, 19)} UTC`);
    for (const trace of this.graph.data) this.put(trace, valueAt(trace, moment));
  }

  showLatest() {
    this.isHovering = false;
    this.moment("latest");
    for (const trace of this.graph.data) this.put(trace, lastOf(trace));
  }

  moment(text) {
    const target = this.root.querySelector("#nd-moment");
    if (target) target.textContent = text;
  }

  put(trace, value) {
    const { gpu, panel, decimals } = trace.meta ?? {};
    const cell = this.root.querySelector(`#nd-values tr[data-gpu="${gpu}"] [data-panel="${panel}"]`);
    if (cell) cell.textContent = number(value, decimals);
  }

  click(event) {
    const range = event.target.closest(".nd-range");
    if (range) {
      for (const other of range.parentElement.children) other.setAttribute("aria-pressed", String(other === range));
    }
    const button = event.target.closest(".nd-gpu");
    if (!button || !this.graph) return;
    const gpu = Number(button.dataset.gpu);
    this.alone = this.alone === gpu ? null : gpu;
    for (const other of this.root.querySelectorAll(".nd-gpu")) {
      other.setAttribute("aria-pressed", String(Number(other.dataset.gpu) === this.alone));
    }
    this.applyAlone();
  }

  // Opacity only: hiding traces would move the axes, and the comparison would be lost.
  applyAlone() {
    const wanted = this.graph.data.map((trace) => (this.alone === null || trace.meta.gpu === this.alone ? 1 : 0.12));
    const isSame = this.graph.data.every((trace, index) => (trace.opacity ?? 1) === wanted[index]);
    if (!isSame) window.Plotly.restyle(this.graph, { opacity: wanted });
  }
}

function timeOf(trace, index) {
  return trace.x ? Number(trace.x[index]) : trace.x0 + index * trace.dx;
}

// The value of the sample nearest to a moment; null within a gap.
function valueAt(trace, moment) {
  const count = trace.y.length;
  if (!trace.x) {
    const index = Math.round((moment - trace.x0) / trace.dx);
    return index < 0 || index >= count ? null : trace.y[index];
  }
  let low = 0;
  let high = count - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (timeOf(trace, middle) < moment) low = middle + 1;
    else high = middle;
  }
  const before = low > 0 && moment - timeOf(trace, low - 1) < timeOf(trace, low) - moment;
  return trace.y[before ? low - 1 : low] ?? null;
}

function lastOf(trace) {
  for (let index = trace.y.length - 1; index >= 0; index -= 1) {
    if (trace.y[index] !== null) return trace.y[index];
  }
  return null;
}
