// The list of nodes: what each does now, filtered as one types.

import { getJson } from "./feed.js";
import { element, go, keepRows, number, NONE, withUnit } from "./text.js";

const REFRESH_MS = 10_000;
const NAMES = ["hall", "rack", "model"];
const COUNTS = ["gpus", "gpus_reporting", "gpus_active", "gpus_throttled", "gpus_down"];

export class NodesView {
  constructor(root) {
    this.root = root;
    this.nodes = [];
    root.addEventListener("input", () => this.show());
    root.addEventListener("click", (event) => this.open(event));
    this.timer = setInterval(() => this.load(), REFRESH_MS);
    this.load();
  }

  close() {
    clearInterval(this.timer);
  }

  async load() {
    try {
      this.nodes = (await getJson("/api/v1/nodes")).nodes;
      this.show();
    } catch {
      this.said("The nodes cannot be read from the API.");
    }
  }

  said(text) {
    this.root.querySelector("#nd-list-said").textContent = text;
  }

  show() {
    const words = this.root.querySelector("#nd-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = this.nodes.filter((node) => {
      const text = [node.node, ...NAMES.map((name) => node[name])].join(" ").toLowerCase();
      return words.every((word) => text.includes(word));
    });
    const rows = keepRows(this.root.querySelector("#nd-list"), shown.length, makeRow);
    shown.forEach((node, index) => fillRow(rows[index], node));
    const all = number(this.nodes.length);
    this.said(shown.length === this.nodes.length ? `${all} nodes` : `${number(shown.length)} of ${all} nodes`);
  }

  open(event) {
    const link = event.target.closest("a");
    if (!link || event.metaKey || event.ctrlKey) return;
    event.preventDefault();
    go(link.getAttribute("href"));
  }
}

function makeRow() {
  const head = element("th", "", element("a", "pw-link"));
  head.scope = "row";
  const names = NAMES.map(() => element("td"));
  const counts = [...COUNTS, "hottest"].map(() => element("td", "pw-right"));
  return element("tr", "", head, ...names, ...counts);
}

function fillRow(row, node) {
  const link = row.querySelector("a");
  link.href = `/nodes/${encodeURIComponent(node.node)}`;
  const texts = [
    node.node,
    ...NAMES.map((name) => node[name] || NONE),
    ...COUNTS.map((name) => number(node[name])),
    withUnit(node.temperature_max_c, "°C"),
  ];
  [link, ...[...row.children].slice(1)].forEach((cell, index) => {
    if (cell.textContent !== texts[index]) cell.textContent = texts[index];
  });
}
