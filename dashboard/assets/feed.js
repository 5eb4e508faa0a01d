// The one socket of a page: frames in, and the truth about how old they are.

import { decodeFrame } from "./frame.js";

export const STALE_S = 2.5;
export const DOWN_S = 15;
const RETRY_FIRST_MS = 500;
const RETRY_MOST_MS = 10_000;

export class Feed {
  constructor(onFrame) {
    this.onFrame = onFrame;
    this.latest = null;
    this.layout = null;
    this.connections = 0;
    this.freshAt = null;
    this.retryMs = RETRY_FIRST_MS;
    this.decoding = Promise.resolve();
  }

  open() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/api/v1/live/ws`);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    let first = true;
    socket.onopen = () => {
      this.connections += 1;
      this.retryMs = RETRY_FIRST_MS;
    };
    socket.onmessage = (message) => {
      const isFirst = first;
      first = false;
      // One after the other: a later frame must not overtake an earlier one.
      this.decoding = this.decoding.then(() => this.take(message.data, isFirst)).catch((error) => console.error(error));
    };
    socket.onclose = () => {
      setTimeout(() => this.open(), this.retryMs * (0.75 + Math.random() / 2));
      this.retryMs = Math.min(RETRY_MOST_MS, this.retryMs * 2);
    };
  }

  async take(data, isFirst) {
    const frame = await decodeFrame(data);
    if (this.layout?.id !== frame.header.layout) await this.fetchLayout();
    const known = this.latest?.header.frame === frame.header.frame;
    // A server greets with its newest frame, which may be an old one: it says how old.
    if (isFirst) await this.fetchAge(frame.header);
    else if (!known) this.freshAt = performance.now();
    this.latest = frame;
    this.onFrame(frame);
  }

  async fetchLayout() {
    this.layout = await getJson("/api/v1/layout");
  }

  async fetchAge(header) {
    const live = await getJson("/api/v1/live");
    const same = live.frame === header.frame && typeof live.age_s === "number";
    this.freshAt = performance.now() - (same && live.state !== "live" ? live.age_s * 1000 : 0);
  }

  ageSeconds() {
    return this.freshAt === null ? null : (performance.now() - this.freshAt) / 1000;
  }

  // starting | live | partial | stale | down
  state() {
    const seconds = this.ageSeconds();
    if (seconds === null) return "starting";
    if (seconds >= DOWN_S) return "down";
    if (seconds >= STALE_S) return "stale";
    const { gpus_reporting: reporting, gpus_installed: installed } = this.latest.header;
    return reporting < installed ? "partial" : "live";
  }
}

export async function getJson(path) {
  const answer = await fetch(path, { headers: { Accept: "application/json" } });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}
