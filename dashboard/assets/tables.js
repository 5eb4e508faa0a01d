// The three tables below the map. Rows are kept and only their text changes.

import { NONE, decimalsFor, element, go, keepRows, number, percent, withUnit } from "./text.js";

const ROWS = 8;
const ATTENTION = [
  [8, "down", "Down"],
  [0, "silent", "Not reporting"],
  [4, "throttled", "Throttled"],
];

function cell(row, index, text) {
  const target = row.children[index];
  if (target.textContent !== text) target.textContent = text;
}

function bar(row, index, fraction, name) {
  const fill = row.children[index].querySelector(".pw-inbar");
  const width = `${(100 * Math.max(0, Math.min(1, fraction))).toFixed(1)}%`;
  if (fill.style.width !== width) fill.style.width = width;
  if (fill.dataset.level !== name) fill.dataset.level = name;
}

function nodeRow(...names) {
  const row = element("tr");
  names.forEach((name, index) => row.append(index === 0 ? element("th", name) : element("td", name)));
  row.firstElementChild.scope = "row";
  return row;
}

function barCell(name, text) {
  const fill = element("span", "pw-inbar");
  return [element("span", "pw-intrack", fill), element("span", name, text)];
}

function link(target, text, node) {
  linkTo(target, text, `/nodes/${encodeURIComponent(node)}`);
}

function linkTo(target, text, href) {
  let anchor = target.querySelector("a");
  if (!anchor) {
    anchor = element("a", "pw-link");
    anchor.addEventListener("click", (event) => {
      if (event.metaKey || event.ctrlKey) return;
      event.preventDefault();
      go(anchor.getAttribute("href"));
    });
    target.replaceChildren(anchor);
  }
  if (anchor.getAttribute("href") !== href) anchor.setAttribute("href", href);
  if (anchor.textContent !== text) anchor.textContent = text;
}

function empty(id, isEmpty) {
  const note = document.getElementById(`${id}-empty`);
  if (note.hidden === isEmpty) note.hidden = !isEmpty;
}

export function showHottest({ hottest }) {
  const body = document.getElementById("lv-hottest-rows");
  const shown = hottest.slice(0, ROWS);
  const rows = keepRows(body, shown.length, () => {
    const row = nodeRow("", "pw-right pw-barcell", "pw-right", "pw-right", "pw-right", "lv-tenant");
    row.children[1].append(...barCell("", ""));
    return row;
  });
  shown.forEach((gpu, index) => {
    const row = rows[index];
    link(row.children[0], gpu.gpu, gpu.node);
    const text = row.children[1].lastElementChild;
    const degrees = withUnit(gpu.temperature_c, "°C");
    if (text.textContent !== degrees) text.textContent = degrees;
    const margin = gpu.margin_c;
    const level = margin !== null && margin <= 3 ? "hot" : margin !== null && margin <= 8 ? "warm" : "calm";
    bar(row, 1, (gpu.temperature_c - 25) / 70, level);
    cell(row, 2, margin === null || margin === undefined ? NONE : withUnit(margin, "K"));
    cell(row, 3, withUnit(gpu.power_w, "W"));
    cell(row, 4, percent(gpu.utilization, 1));
    cell(row, 5, gpu.tenant ?? "unallocated");
  });
  empty("lv-hottest-rows", shown.length === 0);
}

export function showTenants({ tenants }) {
  const body = document.getElementById("lv-tenant-rows");
  const shown = tenants.slice(0, ROWS);
  const decimals = decimalsFor(Math.max(...shown.map(({ pflops }) => pflops ?? 0), 0));
  const most = Math.max(...shown.map(({ pflops_nameplate: plate }) => plate ?? 0), 1e-9);
  const rows = keepRows(body, shown.length, () => {
    const row = nodeRow("", "pw-right pw-barcell", "pw-right", "pw-right", "pw-right", "pw-right");
    row.children[1].append(...barCell("", ""));
    const plate = element("span", "pw-inplate");
    row.children[1].firstElementChild.prepend(plate);
    return row;
  });
  shown.forEach((tenant, index) => {
    const row = rows[index];
    cell(row, 0, tenant.tenant);
    row.children[1].querySelector(".pw-inplate").style.width = `${((100 * tenant.pflops_nameplate) / most).toFixed(1)}%`;
    bar(row, 1, (tenant.pflops ?? 0) / most, "delivered");
    const text = row.children[1].lastElementChild;
    const now = number(tenant.pflops, decimals);
    if (text.textContent !== now) text.textContent = now;
    cell(row, 2, percent(tenant.pflops, tenant.pflops_nameplate));
    cell(row, 3, number(tenant.gpus));
    cell(row, 4, percent(tenant.active, tenant.gpus));
    cell(row, 5, withUnit(tenant.power_kw, "kW", 1));
  });
  empty("lv-tenant-rows", shown.length === 0);
}

// Nodes with GPUs that are down, silent or throttled, worst first: {kind, node, rack, count, tenant}.
function findAttention({ columns, header }, gpus) {
  const found = new Map();
  columns.state.forEach((bits, index) => {
    const kind = bits & 8 ? 0 : bits & 1 ? (bits & 4 ? 2 : -1) : 1;
    if (kind < 0) return;
    const { node, rack } = gpus[index];
    const key = `${kind} ${node}`;
    if (!found.has(key)) found.set(key, { kind, node, rack, count: 0, rank: columns.tenant[index] });
    found.get(key).count += 1;
  });
  const rows = [...found.values()].sort((a, b) => a.kind - b.kind || b.count - a.count);
  // The frame names whose work the worst are; a column has room for the first tenants only.
  const named = new Map((header.attention ?? []).map((one) => [`${one.kind} ${one.node}`, one.tenant]));
  return rows.map((row) => {
    const tenant = named.get(`${ATTENTION[row.kind][1]} ${row.node}`);
    return { ...row, tenant: tenant ?? tenantOf(row.rank, header) };
  });
}

function tenantOf(rank, header) {
  if (rank === 255) return "unallocated";
  return rank === 254 ? "another tenant" : (header.tenants[rank]?.tenant ?? NONE);
}

// An incident stands for the nodes of its place; what else needs attention follows.
function isWithin(item, { subject }) {
  if (subject.node) return item.node === subject.node;
  return subject.scope === "rack" && item.rack === subject.rack;
}

export function showAttention(frame, gpus, incidents) {
  const told = incidents.slice(0, ROWS);
  const loose = gpus ? findAttention(frame, gpus).filter((item) => !incidents.some((one) => isWithin(item, one))) : [];
  const shown = loose.slice(0, ROWS - told.length);
  const body = document.getElementById("lv-attention-rows");
  const rows = keepRows(body, told.length + shown.length, () => {
    const row = nodeRow("", "", "", "pw-right", "lv-tenant");
    row.children[0].append(element("span", "pw-shape"), element("span"));
    return row;
  });
  told.forEach((incident, index) => showIncident(rows[index], incident));
  shown.forEach((item, index) => {
    const row = rows[told.length + index];
    const [, shape, word] = ATTENTION[item.kind];
    row.title = "";
    row.children[0].firstElementChild.dataset.shape = shape;
    row.children[0].lastElementChild.textContent = word;
    link(row.children[1], item.node, item.node);
    cell(row, 2, item.rack);
    cell(row, 3, number(item.count));
    cell(row, 4, item.tenant);
  });
  empty("lv-attention-rows", told.length + shown.length === 0);
}

function showIncident(row, { id, severity, title, text, subject, gpus, tenants }) {
  row.title = text ? `${title}. ${text}` : title;
  row.children[0].firstElementChild.dataset.shape = severity;
  row.children[0].lastElementChild.textContent = severity === "critical" ? "Incident" : "Warning";
  linkTo(row.children[1], title.replace(/, \d+ GPUs$/, ""), `/alerts/${encodeURIComponent(id)}`);
  cell(row, 2, subject.rack ?? NONE);
  cell(row, 3, gpus ? number(gpus) : NONE);
  cell(row, 4, tenants.length > 1 ? `${tenants[0]} and ${tenants.length - 1} more` : (tenants[0] ?? "unallocated"));
}
