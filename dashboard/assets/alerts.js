// The Alerts page and an incident's buttons.

import { drawSpark } from "./charts.js";
import { getJson } from "./feed.js";
import { age, element, go, keepRows, NONE, number, withUnit } from "./text.js";

const REFRESH_MS = 2_000;
const SPARK_MS = 30_000;
const SPARK_S = 900;
const SPARKS = 30;
const METRIC = { thermal: "gpu_temperature_c", power: "power_w" };
const PLACES = new Set(["gpu", "node", "rack", "hall", "site"]);
const COLOUR = { thermal: "--hot", power: "--power" };

export async function send(method, path, body) {
  const options = { method, headers: { "Content-Type": "application/json" } };
  if (body) options.body = JSON.stringify(body);
  const answer = await fetch(path, options);
  if (answer.ok) {
    // Read to its end, or leaving the page would break it off.
    await answer.arrayBuffer();
    return;
  }
  let detail = `the API answered with status ${answer.status}`;
  try {
    detail = (await answer.json()).detail ?? detail;
  } catch {
    // Its status is all that it says.
  }
  throw new Error(typeof detail === "string" ? detail : JSON.stringify(detail));
}

const path = (incident, rest = "") => `/api/v1/incidents/${encodeURIComponent(incident)}${rest}`;

function say(id, text) {
  const place = document.getElementById(id);
  if (place) place.textContent = text;
}

export class AlertsView {
  constructor(root) {
    this.root = root;
    this.which = "open";
    this.rows = [];
    this.next = null;
    this.sparks = new Map();
    this.asked = 0;
    root.addEventListener("input", () => this.load());
    root.addEventListener("click", (event) => this.click(event));
    this.timer = setInterval(() => this.load(), REFRESH_MS);
    this.sparkTimer = setInterval(() => this.loadSparks(), SPARK_MS);
    this.load().then(() => this.loadSparks());
  }

  close() {
    clearInterval(this.timer);
    clearInterval(this.sparkTimer);
  }

  find(id) {
    return this.root.querySelector(`#${id}`);
  }

  query(after) {
    const words = this.find("al-search").value.trim();
    const asked = new URLSearchParams({ state: this.which });
    if (words) asked.set("search", words);
    if (after) asked.set("after", after);
    return `/api/v1/incidents?${asked}`;
  }

  async load() {
    const asked = (this.asked += 1);
    try {
      const [found, silences, firing] = await Promise.all([
        getJson(this.query()), getJson("/api/v1/silences"), getJson("/api/v1/alerts?severity=info"),
      ]);
      // An older question's answer may come last.
      if (asked !== this.asked) return;
      this.rows = found.incidents;
      this.next = found.next;
      this.show();
      this.showSilences(silences.silences);
      this.showInformation(firing.alerts);
      say("al-said", this.count());
    } catch {
      say("al-said", "The alerts cannot be read from the API.");
    }
  }

  count() {
    const noun = this.rows.length === 1 ? "incident" : "incidents";
    return `${number(this.rows.length)}${this.next ? " newest" : ""} ${noun}`;
  }

  async more() {
    try {
      const found = await getJson(this.query(this.next));
      clearInterval(this.timer); // A page that was opened further stays as it is.
      this.rows = [...this.rows, ...found.incidents];
      this.next = found.next;
      this.show();
    } catch {
      say("al-said", "No more can be read from the API.");
    }
  }

  show() {
    if (this.which === "open" && !this.find("al-search").value.trim()) this.showTiles();
    const rows = keepRows(this.find("al-list"), this.rows.length, makeRow);
    this.rows.forEach((incident, index) => this.fillRow(rows[index], incident));
    const none = this.find("al-none");
    none.hidden = this.rows.length > 0;
    none.textContent = this.which === "open" ? "Nothing is wrong that we know of." : "Nothing is found.";
    this.find("al-more").hidden = !this.next;
  }

  showTiles() {
    const of = (severity) => this.rows.filter((row) => row.severity === severity).length;
    // What lies inside another incident's place is counted there.
    const apart = this.rows.filter((row, at) => !this.rows.some((other, index) => inside(row, other, at > index)));
    const sum = (name) => apart.reduce((total, row) => total + (row[name] ?? 0), 0);
    say("al-critical", number(of("critical")));
    say("al-warning", number(of("warning")));
    say("al-gpus", number(sum("gpus")));
    say("al-pflops", number(sum("pflops"), 1));
    say("al-untaken", number(this.rows.filter((row) => !row.acknowledged).length));
    for (const key of ["critical", "warning"]) {
      this.root.querySelector(`.al-tile[data-key="${key}"]`).dataset.any = String(of(key) > 0);
    }
  }

  fillRow(row, incident) {
    const over = incident.state === "resolved";
    row.dataset.incident = incident.id;
    row.dataset.over = String(over);
    row.querySelector(".nd-mark").dataset.severity = incident.severity;
    put(row, ".al-severity", incident.severity);
    const link = row.querySelector("a");
    link.href = `/alerts/${encodeURIComponent(incident.id)}`;
    if (link.textContent !== incident.title) link.textContent = incident.title;
    put(row, ".al-why", incident.text);
    put(row, ".al-place", placeOf(incident.subject));
    const until = over ? Date.parse(incident.resolved) : Date.now();
    put(row, ".al-age", age(Math.max(0, (until - Date.parse(incident.opened)) / 1000)));
    put(row, ".al-hits", incident.gpus ? `${number(incident.gpus)} GPU${incident.gpus === 1 ? "" : "s"}` : NONE);
    put(row, ".al-stake", incident.pflops === null ? "" : withUnit(incident.pflops, "PFLOP/s", 1));
    put(row, ".al-tenants", incident.tenants.slice(0, 3).join(", ") + (incident.tenants.length > 3 ? " …" : "") || NONE);
    put(row, ".al-state", stateOf(incident));
    row.querySelector("[data-act=acknowledge]").hidden = over || Boolean(incident.acknowledged);
    row.querySelector("[data-act=silence]").hidden = over || incident.silenced;
    const spark = this.sparks.get(incident.id);
    const canvas = row.querySelector("canvas");
    canvas.hidden = !spark;
    if (spark) drawSpark(canvas, spark, colour(COLOUR[incident.family] ?? "--accent"));
  }

  async loadSparks() {
    const wanted = this.rows.filter((row) => row.state === "open").slice(0, SPARKS);
    for (const incident of wanted) {
      const at = [...incident.members.map((one) => one.subject), incident.subject].find((one) => one.node);
      if (!at) continue;
      const end = new Date();
      const asked = new URLSearchParams({
        node: at.node, metric: METRIC[incident.family] ?? "gpu_utilization", resolution: "auto",
        from: new Date(end - SPARK_S * 1000).toISOString(), to: end.toISOString(),
      });
      try {
        const { series } = await getJson(`/api/v1/series?${asked}`);
        // Of a GPU that tells nothing no other one is shown.
        const one = at.slot ? series.find((found) => found.slot === at.slot) : series[0];
        if (one?.value?.length > 1) this.sparks.set(incident.id, one.value.map((v) => v ?? Number.NaN));
      } catch {
        // The row says the rest.
      }
    }
    this.show();
  }

  showSilences(silences) {
    const rows = keepRows(this.find("al-silences"), silences.length, () =>
      element("li", "al-item", element("span"), button("End", "end-silence")));
    silences.forEach((one, index) => {
      const match = Object.entries(one.match).map(([name, text]) => `${name} ${text}`).join(", ");
      const until = one.until ? one.until.slice(0, 16).replace("T", " ") : "its end";
      rows[index].dataset.silence = one.id;
      put(rows[index], "span", `${match} until ${until} UTC, ${one.actor}: ${one.text}`);
    });
    this.find("al-silences").dataset.none = silences.length ? "" : "None.";
  }

  showInformation(alerts) {
    const shown = alerts.slice(-20).reverse();
    const rows = keepRows(this.find("al-information"), shown.length, () => element("li", "al-item", element("span")));
    shown.forEach((one, index) => put(rows[index], "span", informed(one)));
    const rest = alerts.length - shown.length;
    this.find("al-information").dataset.none = alerts.length ? (rest > 0 ? `and ${number(rest)} more` : "") : "None.";
  }

  async click(event) {
    const segment = event.target.closest("[data-state]");
    if (segment?.closest("#al-states")) {
      this.which = segment.dataset.state;
      for (const one of this.find("al-states").children) one.ariaPressed = String(one === segment);
      await this.load();
      return;
    }
    const link = event.target.closest("a");
    if (link && !event.metaKey && !event.ctrlKey) {
      event.preventDefault();
      go(link.getAttribute("href"));
      return;
    }
    if (event.target.closest("#al-more")) await this.more();
    else if (event.target.closest("#al-test")) await this.test();
    else await this.act(event.target.closest("button"));
  }

  async act(pressed) {
    if (!pressed?.dataset.act) return;
    const incident = pressed.closest("[data-incident]")?.dataset.incident;
    pressed.disabled = true;
    try {
      if (pressed.dataset.act === "acknowledge") await send("POST", path(incident, "/acknowledge"), { text: "" });
      if (pressed.dataset.act === "silence") await silence(incident, 3600, "silenced on the Alerts page");
      if (pressed.dataset.act === "end-silence") {
        const name = pressed.closest("[data-silence]").dataset.silence;
        await send("DELETE", `/api/v1/silences/${encodeURIComponent(name)}`);
      }
      await this.load();
    } catch (error) {
      say("al-said", error.message);
    } finally {
      pressed.disabled = false;
    }
  }

  async test() {
    try {
      await send("POST", "/api/v1/alerts/test", {});
      say("al-test-said", "Asked for. Whoever is configured gets it within seconds; commands are not run.");
    } catch (error) {
      say("al-test-said", error.message);
    }
  }
}

function silence(incident, seconds, text) {
  return send("POST", "/api/v1/silences", { match: { incident }, for_s: seconds, text });
}

function button(words, act) {
  const made = element("button", "pw-button", words);
  made.type = "button";
  made.dataset.act = act;
  return made;
}

function makeRow() {
  const head = element("th", "al-what", element("a", "pw-link"), element("span", "al-why nd-text"));
  head.scope = "row";
  const canvas = element("canvas", "al-spark");
  canvas.setAttribute("aria-hidden", "true");
  const severity = element("td", "al-mark", element("span", "nd-mark"), element("span", "al-severity"));
  return element(
    "tr", "", severity, head, element("td", "al-place"), element("td", "al-now", canvas),
    element("td", "al-age pw-right"),
    element("td", "pw-right", element("span", "al-hits"), element("span", "al-stake nd-text")),
    element("td", "al-tenants"), element("td", "al-state"),
    element("td", "al-do", button("Take on", "acknowledge"), button("Silence 1 h", "silence")),
  );
}

function put(row, selector, text) {
  const place = row.querySelector(selector);
  if (place.textContent !== text) place.textContent = text;
}

function informed({ subject, text, rule }) {
  const words = text || rule.replaceAll("_", " ");
  return words.startsWith(`${subject.name}: `) ? words : `${subject.name}: ${words}`;
}

function placeOf(subject) {
  return [subject.hall, subject.rack, subject.node].filter(Boolean).join(" / ") || subject.name;
}

const PARTS = ["hall", "rack", "node", "slot"];

function inside(row, other, later) {
  if (row === other || !PLACES.has(row.subject.scope) || !PLACES.has(other.subject.scope)) return false;
  const holds = PARTS.every((part) => !other.subject[part] || other.subject[part] === row.subject[part]);
  const same = PARTS.every((part) => (other.subject[part] ?? "") === (row.subject[part] ?? ""));
  return holds && (!same || later);
}

function stateOf(incident) {
  if (incident.state === "resolved") return "resolved";
  const words = [];
  if (incident.acknowledged) words.push(`taken on by ${incident.acknowledged.actor}`);
  if (incident.silenced) words.push("silenced");
  return words.join(", ") || "open";
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

export class IncidentView {
  constructor(root) {
    this.root = root;
    root.addEventListener("click", (event) => this.click(event));
  }

  close() {}

  async click(event) {
    const pressed = event.target.closest("button[data-act]");
    if (!pressed) return;
    const incident = this.root.dataset.incident;
    const words = this.root.querySelector("#in-words");
    pressed.disabled = true;
    try {
      await this.act(pressed.dataset, incident, words.value.trim());
      say("in-act-said", "Written down.");
      if (words.value) {
        // React keeps its own copy of the field.
        Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set.call(words, "");
        words.dispatchEvent(new Event("input", { bubbles: true }));
      }
    } catch (error) {
      say("in-act-said", error.message);
    } finally {
      pressed.disabled = false;
    }
  }

  act({ act, seconds }, incident, text) {
    if (act === "acknowledge") return send("POST", path(incident, "/acknowledge"), { text });
    if (act === "let-go") return send("DELETE", path(incident, "/acknowledge"));
    if (act === "comment") return send("POST", path(incident, "/comments"), { text });
    return silence(incident, Number(seconds), text || "silenced on the incident's page");
  }
}
