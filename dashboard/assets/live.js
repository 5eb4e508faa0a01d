// The Live page: puts each frame's figures where they belong.

import { LineChart, drawSpark } from "./charts.js";
import { History } from "./history.js";
import { GpuMap } from "./map.js";
import { describeGpu, showLegend } from "./legend.js";
import { showAttention, showHottest, showTenants } from "./tables.js";
import { decimalsFor, number, percent, power, setText, withUnit, THIN } from "./text.js";

const METHODS = {
  gpm: "measured on the GPU by tensor activity (GPM)",
  dcgm: "measured by DCGM tensor activity",
  mixed: "measured by tensor activity, more than one method",
  estimate: "estimated from utilisation and clock",
  simulated: "from simulated tensor activity",
};
const STEPS = ["nameplate", "reporting", "allocated", "active", "delivered"];
const DROPS = {
  reporting: "down or not reporting",
  allocated: "not allocated",
  active: "allocated, idle",
  delivered: "lost while active",
};
const SPARK_EVERY = 5;

export class LiveView {
  constructor(root) {
    this.root = root;
    this.history = new History();
    this.incidents = [];
    this.byId = (id) => document.getElementById(id);
    this.map = new GpuMap(this.byId("lv-map"), this.byId("lv-tip"), describeGpu);
    this.charts = {
      delivered: new LineChart(this.byId("lv-chart-delivered"), { format: axis, zero: true }),
      power: new LineChart(this.byId("lv-chart-power"), { format: axis, zero: false }),
    };
    this.shown = 0;
    this.onMode = (event) => this.pickMode(event);
    this.byId("lv-modes").addEventListener("click", this.onMode);
    this.onResize = new ResizeObserver(() => this.drawSparks());
    this.onResize.observe(root);
    showLegend(this.byId("lv-legend"), this.map.mode, null);
    this.history.load().then(() => this.drawHistory(), () => {});
  }

  // Open incidents, as the header's count of them is renewed.
  told(incidents) {
    this.incidents = incidents;
  }

  close() {
    this.map.close();
    this.onResize.disconnect();
    Object.values(this.charts).forEach((chart) => chart.close());
  }

  state(state) {
    if (this.root.dataset.state !== state) this.root.dataset.state = state;
  }

  theme() {
    this.map.readTheme();
    this.refreshLegend();
    this.drawHistory();
  }

  pickMode(event) {
    const mode = event.target.dataset?.mode;
    if (!mode) return;
    for (const button of this.byId("lv-modes").children) {
      button.setAttribute("aria-pressed", String(button.dataset.mode === mode));
    }
    this.map.setMode(mode);
    this.refreshLegend();
  }

  refreshLegend() {
    showLegend(this.byId("lv-legend"), this.map.mode, this.latest?.header ?? null);
  }

  frame(frame, layout) {
    this.latest = frame;
    const { header } = frame;
    this.history.add(header);
    this.showHero(header);
    this.showWaterfall(header);
    this.showTiles(frame);
    this.map.show(frame, layout);
    setText("lv-map-note", `${number(header.gpus_reporting)} of ${number(header.gpus_installed)} reporting`);
    if (this.map.mode === "tenant" || this.shown === 0) this.refreshLegend();
    showHottest(header);
    showTenants(header);
    showAttention(frame, this.map.gpus, this.incidents);
    this.drawCharts();
    if (this.shown % SPARK_EVERY === 0) this.drawSparks();
    this.shown += 1;
  }

  showHero(header) {
    const { pflops_delivered: delivered, pflops_lo: low, pflops_hi: high, pflops_estimated: estimated } = header;
    const figure = (value) => number(value, decimalsFor(header.pflops_nameplate));
    setText("lv-pflops", figure(delivered));
    const bounds = low === null || high === null ? "Nothing is measured" : `${figure(low)} – ${figure(high)} bounds of the measurement`;
    setText("lv-bounds", bounds);
    setText("lv-method", METHODS[header.method] ?? (header.method === "none" ? "no method applies" : header.method));
    setText("lv-coverage", `${percent(header.coverage, 1, 1)} of installed GPU time measured`);
    setText("lv-estimated", estimated ? `${withUnit(estimated, "PFLOPS", 1)} estimated, not counted` : "");
    const moved = this.history.change("pflops_delivered");
    const sign = moved && moved.change < 0 ? "−" : "+";
    setText("lv-change", moved ? `${sign}${figure(Math.abs(moved.change))} in ${moved.minutes}${THIN}min` : "");
  }

  showWaterfall(header) {
    const whole = header.pflops_nameplate;
    const figure = (value) => number(value, decimalsFor(whole));
    let above = whole;
    for (const step of STEPS) {
      const value = header[`pflops_${step}`];
      setText(`lv-${step}-value`, figure(value));
      setText(`lv-${step}-share`, percent(value, whole, 1));
      this.setWidth(`lv-${step}-bar`, value, whole);
      this.setWidth(`lv-${step}-gap`, value === null ? null : above, whole);
      const drop = value === null || above === null ? null : above - value;
      if (step in DROPS) setText(`lv-${step}-drop`, drop === null ? "not measured" : `−${figure(drop)} ${DROPS[step]}`);
      above = value ?? above;
    }
    this.showBounds(header, whole);
  }

  setWidth(id, value, whole) {
    const width = value === null || !whole ? "0" : `${((100 * value) / whole).toFixed(2)}%`;
    const bar = this.byId(id);
    if (bar && bar.style.width !== width) bar.style.width = width;
  }

  showBounds({ pflops_lo: low, pflops_hi: high }, whole) {
    const mark = this.byId("lv-bounds-mark");
    mark.hidden = low === null || high === null || !whole;
    if (mark.hidden) return;
    mark.style.left = `${((100 * low) / whole).toFixed(2)}%`;
    mark.style.width = `${((100 * (high - low)) / whole).toFixed(2)}%`;
  }

  showTiles({ header, columns }) {
    const [watts, unit] = power(header.power_kw);
    this.tile("power", watts, unit, `${percent(header.power_coverage, 1, 1)} of GPUs metered`, perGpu(header));
    const idle = `${number(header.gpus_idle)} idle · ${number(header.gpus_allocated)} allocated`;
    this.tile("active", number(header.gpus_active), `of ${number(header.gpus_installed)}`, idle,
      `${percent(header.gpus_active, header.gpus_allocated, 1)} of allocated`);
    const hot = header.temperature_c;
    const first = header.hottest[0];
    this.tile("hottest", number(hot?.max), hot ? "°C" : "", first ? `${first.gpu}${first.tenant ? ` · ${first.tenant}` : ""}` : "no temperature",
      hot ? `p99 ${number(hot.p99)} · median ${number(hot.median)}${THIN}°C` : "");
    const efficiency = header.efficiency_gflops_w;
    this.tile("efficiency", number(efficiency), efficiency === null ? "" : "GFLOPS/W", "delivered per GPU watt", "");
    const counts = countStates(columns.state);
    const all = counts.down + counts.silent + counts.throttled;
    this.tile("attention", number(all), all === 1 ? "GPU" : "GPUs", `${counts.throttled} throttled · ${counts.down} down`,
      `${counts.silent} not reporting`);
    this.byId("pw-live").dataset.attention = all ? "some" : "none";
  }

  tile(key, value, unit, note, more) {
    setText(`lv-${key}`, value);
    setText(`lv-${key}-unit`, unit);
    setText(`lv-${key}-note`, note);
    setText(`lv-${key}-more`, more);
  }

  drawHistory() {
    this.drawCharts();
    this.drawSparks();
  }

  palette() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    return {
      text: colour("--text"), dim: colour("--dim"), grid: colour("--grid"), reference: colour("--reference"),
      raised: colour("--raised"), delivered: colour("--delivered"), power: colour("--power"), hot: colour("--hot"),
      good: colour("--good"), warn: colour("--warn"), allocated: colour("--allocated-line"),
    };
  }

  drawCharts() {
    const header = this.latest?.header;
    if (!header) return;
    const colours = this.palette();
    const times = this.history.seconds();
    const minutes = this.history.minutes();
    for (const key of ["delivered", "power"]) setText(`lv-chart-${key}-span`, `last ${minutes}${THIN}min`);
    const { columns } = this.history;
    const lines = [
      { values: columns.pflops_allocated, colour: colours.allocated, dashed: true, name: "allocated" },
      { values: columns.pflops_delivered, colour: colours.delivered },
    ];
    const whole = header.pflops_nameplate;
    const marks = whole === null ? [] : [{ value: whole, name: `installed ${number(whole, decimalsFor(whole))}` }];
    this.charts.delivered.show(times, lines, marks, colours);
    const isMega = (header.power_kw ?? 0) >= 1000;
    setText("lv-chart-power-unit", isMega ? "MW" : "kW");
    const watts = isMega ? columns.power_kw.map((value) => (value === null ? null : value / 1000)) : columns.power_kw;
    this.charts.power.show(times, [{ values: watts, colour: colours.power }], [], colours);
  }

  drawSparks() {
    if (!this.latest) return;
    const colours = this.palette();
    const { columns } = this.history;
    const silent = columns.gpus_reporting.map((value) => (value === null ? null : this.latest.header.gpus_installed - value));
    drawSpark(this.byId("lv-power-spark"), columns.power_kw, colours.power);
    drawSpark(this.byId("lv-active-spark"), columns.gpus_active, colours.delivered);
    drawSpark(this.byId("lv-hottest-spark"), columns.temperature_max_c, colours.hot);
    drawSpark(this.byId("lv-efficiency-spark"), this.history.ratio("pflops_delivered", "power_kw", 1000), colours.good);
    drawSpark(this.byId("lv-attention-spark"), silent, colours.warn);
  }
}

function axis(value, step) {
  if (value === null || Number.isNaN(value)) return "–";
  const decimals = step === null ? (Math.abs(value) < 10 ? 3 : 1) : Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return number(value, step === 2.5 ? 1 : Math.min(decimals, 4));
}

function perGpu(header) {
  if (header.power_kw === null || !header.gpus_reporting) return "";
  return `${number((header.power_kw * 1000) / header.gpus_reporting)}${THIN}W per GPU`;
}

// Bits as the frame defines them: 1 reporting, 4 throttled, 8 down.
function countStates(state) {
  const counts = { down: 0, silent: 0, throttled: 0 };
  for (const bits of state) {
    if (bits & 8) counts.down += 1;
    else if (!(bits & 1)) counts.silent += 1;
    else if (bits & 4) counts.throttled += 1;
  }
  return counts;
}
