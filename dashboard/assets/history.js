// Fifteen minutes of the fleet's figures: from the API once, then from each frame.

import { getJson } from "./feed.js";

const SPAN_US = 900_000_000;
const MOST = 1_800;
const FIELDS = ["pflops_delivered", "pflops_allocated", "power_kw", "gpus_active", "temperature_max_c", "gpus_reporting"];

export class History {
  constructor() {
    this.time = [];
    this.columns = Object.fromEntries(FIELDS.map((name) => [name, []]));
  }

  async load() {
    const answer = await getJson("/api/v1/live/history?minutes=15");
    const from = this.time[0] ?? Infinity;
    const count = answer.time_us.findIndex((time) => time >= from);
    const older = count < 0 ? answer.time_us.length : count;
    this.time = [...answer.time_us.slice(0, older), ...this.time];
    for (const name of FIELDS) {
      const values = (answer[name] ?? []).slice(0, older);
      while (values.length < older) values.push(null);
      this.columns[name] = [...values, ...this.columns[name]];
    }
    this.trim();
  }

  add(header) {
    const last = this.time.at(-1) ?? -Infinity;
    if (header.time_us <= last) return;
    // A hole stays a hole: a null between two samples that are far apart breaks the line.
    if (header.time_us - last > 5_000_000 && Number.isFinite(last)) this.push(last + 1_000_000, {});
    this.push(header.time_us, { ...header, temperature_max_c: header.temperature_c?.max });
    this.trim();
  }

  push(time, values) {
    this.time.push(time);
    for (const name of FIELDS) this.columns[name].push(values[name] ?? null);
  }

  trim() {
    const oldest = (this.time.at(-1) ?? 0) - SPAN_US;
    let drop = Math.max(0, this.time.length - MOST);
    while (this.time[drop] < oldest) drop += 1;
    if (!drop) return;
    this.time.splice(0, drop);
    for (const name of FIELDS) this.columns[name].splice(0, drop);
  }

  // How much is held, in whole minutes from 2 to 15.
  minutes() {
    const held = ((this.time.at(-1) ?? 0) - (this.time[0] ?? 0)) / 60e6;
    return Math.min(15, Math.max(2, Math.ceil(held)));
  }

  seconds() {
    return this.time.map((time) => time / 1e6);
  }

  ratio(over, under, factor) {
    return this.columns[over].map((value, index) => {
      const by = this.columns[under][index];
      return value === null || !by ? null : (factor * value) / by;
    });
  }

  // Change of a column over what is held: {change, minutes}, or null when too short.
  change(name) {
    const values = this.columns[name];
    const first = values.findIndex((value) => value !== null);
    const last = values.at(-1);
    if (first < 0 || last === null || last === undefined) return null;
    const minutes = (this.time.at(-1) - this.time[first]) / 60e6;
    return minutes < 2 ? null : { change: last - values[first], minutes: Math.round(minutes) };
  }
}
