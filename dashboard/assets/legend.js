// The map's legend and the words about one GPU.

import { ABSENT, STATE } from "./frame.js";
import { OTHER, SCALES, TENANTS, gradient, markAt } from "./scales.js";
import { NONE, THIN, element, number, withUnit } from "./text.js";

const STATES = [
  ["ring", "throttled"],
  ["cross", "down"],
  ["hatch", "not reporting"],
];

export function showLegend(parent, mode, header) {
  const theme = document.documentElement.dataset.theme === "light" ? "light" : "dark";
  const scale = mode === "tenant" ? tenantKeys(header) : scaleBar(mode, theme);
  const states = element("div", "lv-keys");
  for (const [shape, word] of STATES) states.append(key(`lv-key lv-key-${shape}`, word));
  parent.replaceChildren(scale, states);
}

function key(name, word, colour) {
  const swatch = element("span", name);
  if (colour) swatch.style.background = colour;
  return element("span", "lv-key-item", swatch, word);
}

function scaleBar(mode, theme) {
  const { low, high, unit, markText } = SCALES[mode];
  const bar = element("span", "lv-scale");
  bar.style.background = gradient(mode, theme);
  const at = markAt(mode);
  if (at !== null) {
    const mark = element("span", "lv-scale-mark");
    mark.style.left = `${(100 * at).toFixed(1)}%`;
    bar.append(mark);
  }
  const box = element("div", "lv-scale-box", element("span", "", low), bar, element("span", "", `${high}${THIN}${unit}`));
  if (at !== null) box.append(element("span", "lv-key-item", element("span", "lv-key-mark"), markText));
  return box;
}

function tenantKeys(header) {
  const keys = element("div", "lv-keys");
  (header?.tenants ?? []).forEach(({ tenant }, rank) => keys.append(key("lv-key", tenant, TENANTS[rank % TENANTS.length])));
  keys.append(key("lv-key", "another tenant", OTHER), key("lv-key lv-key-empty", "unallocated"));
  return keys;
}

function stateWord(bits) {
  if (bits & STATE.down) return "down";
  if (!(bits & STATE.reporting)) return "not reporting";
  const words = [bits & STATE.active ? "active" : "idle"];
  if (bits & STATE.throttled) words.push("throttled");
  if (bits & STATE.capped) words.push("power-capped");
  return words.join(", ");
}

function tenantName(rank, header) {
  if (rank === 255) return "unallocated";
  return rank === 254 ? "another tenant" : (header.tenants[rank]?.tenant ?? NONE);
}

// Fills the tooltip: which GPU, whose it is, and its values now.
export function describeGpu(tip, gpu, index, { header, columns }) {
  const read = (name, factor) => (columns[name][index] === ABSENT ? null : columns[name][index] * factor);
  const fraction = read("delivered", 1 / 200);
  const rows = [
    ["State", stateWord(columns.state[index])],
    ["Tenant", tenantName(columns.tenant[index], header)],
    ["Temperature", withUnit(read("temperature_c", 1), "°C")],
    ["Power", withUnit(read("power_w", 6), "W")],
    ["Utilisation", withUnit(read("utilization", 0.5), "%")],
    ["Delivered", fraction === null ? NONE : `${number(fraction * gpu.plate * 1000)} of ${withUnit(gpu.plate * 1000, "TFLOPS")}`],
  ];
  const list = element("dl", "lv-tip-list");
  for (const [name, value] of rows) list.append(element("dt", "", name), element("dd", "", value));
  const title = element("div", "lv-tip-title", `${gpu.node}·${gpu.index}`);
  const place = element("div", "lv-tip-place", `${gpu.model} · ${gpu.rack} · ${gpu.hall}`);
  tip.replaceChildren(title, place, list);
}
