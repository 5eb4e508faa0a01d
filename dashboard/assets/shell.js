// The header of every page: state pill, origin, clocks, theme; feeds the Live page.

import { AlertsView, IncidentView } from "./alerts.js";
import { Feed, getJson } from "./feed.js";
import { LiveView } from "./live.js";
import { NodeView } from "./node.js";
import { NodesView } from "./nodes.js";
import { age, number, setText } from "./text.js";
import { UsageView } from "./usage.js";

const ORIGINS = {
  simulated: "Simulated data",
  replayed: "Replayed data",
};
const utcTime = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium", timeZone: "UTC" });
let localTime = null;
let view = null;
let said = "";
let incidents = [];
const INCIDENTS_MS = 5_000;

window.__live = { n: 0, header: null, state: "starting", connections: 0 };

const feed = new Feed((frame) => {
  window.__live.n += 1;
  window.__live.header = frame.header;
  window.__live.connections = feed.connections;
  showHeader(frame.header);
  view?.frame?.(frame, feed.layout);
  tick();
});

function showHeader(header) {
  const layout = feed.layout;
  setText("pw-site", `${header.title} · ${number(header.nodes_installed)} nodes · ${number(header.gpus_installed)} GPUs`);
  const origin = document.getElementById("pw-origin");
  const text = ORIGINS[header.origin];
  if (origin) {
    origin.hidden = !text;
    if (text) setText("pw-origin", text);
  }
  if (layout && localTime?.zone !== layout.time_zone) {
    const zone = layout.time_zone;
    const options = { hour: "2-digit", minute: "2-digit", timeZone: zone };
    localTime = { zone, format: new Intl.DateTimeFormat("en-GB", options) };
  }
}

function pillText(state) {
  const header = feed.latest?.header;
  if (state === "starting") return ["Starting", "waiting for the first samples"];
  if (state === "stale") return ["Stale", `last sample ${age(feed.ageSeconds())} ago`];
  if (state === "down") return ["Down", `last sample ${age(feed.ageSeconds())} ago`];
  if (state === "partial") return ["Live", `${number(header.gpus_reporting)} of ${number(header.gpus_installed)} reporting`];
  return ["Live", ""];
}

function tick() {
  const state = feed.state();
  window.__live.state = state;
  const pill = document.getElementById("pw-pill");
  if (!pill) return;
  pill.dataset.state = state;
  const [word, detail] = pillText(state);
  setText("pw-pill-text", detail ? `${word} · ${detail}` : word);
  if (word !== said) {
    // Spoken only when the word changes: an age that counts up would never be silent.
    said = word;
    setText("pw-pill-said", `Data: ${word}`);
  }
  view?.state?.(state);
  showClocks();
}

function showClocks() {
  const now = new Date();
  setText("pw-utc", `${utcTime.format(now)} UTC`);
  if (localTime) {
    const city = localTime.zone.split("/").pop().replaceAll("_", " ");
    setText("pw-local", `${localTime.format.format(now)} ${city}`);
  }
}

// How many incidents are open stands beside the page's name; an API that cannot say leaves it out.
async function countIncidents() {
  try {
    incidents = (await getJson("/api/v1/incidents")).incidents;
  } catch {
    incidents = [];
  }
  const link = document.getElementById("pw-nav-alerts");
  if (link) {
    link.dataset.count = incidents.length ? number(incidents.length) : "";
    link.dataset.worst = incidents.some((one) => one.severity === "critical") ? "critical" : "warning";
    link.title = incidents.length ? `${number(incidents.length)} open` : "";
  }
  view?.told?.(incidents);
}

function switchTheme() {
  const root = document.documentElement;
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  try {
    localStorage.setItem("petawatch-theme", root.dataset.theme);
  } catch {
    // Not remembered where storage is refused; it still holds for this page.
  }
}

const VIEWS = { "pw-live": LiveView, "pw-node": NodeView, "pw-nodes": NodesView, "pw-alerts": AlertsView, "pw-incident": IncidentView, "pw-usage": UsageView };

// Dash swaps pages inside #pw-page: the view follows what is there.
function followPage() {
  if (view && !view.root.isConnected) {
    view.close();
    view = null;
  }
  if (view) return;
  for (const [id, View] of Object.entries(VIEWS)) {
    const root = document.getElementById(id);
    if (root) view = new View(root);
  }
  if (!view) return;
  view.told?.(incidents);
  if (feed.latest) view.frame?.(feed.latest, feed.layout);
  tick();
}

document.addEventListener("click", (event) => {
  if (event.target.closest("#pw-theme")) switchTheme();
});
new MutationObserver(followPage).observe(document.body, { childList: true, subtree: true });
new MutationObserver(() => view?.theme?.()).observe(document.documentElement, {
  attributes: true,
  attributeFilter: ["data-theme"],
});
setInterval(tick, 500);
setInterval(countIncidents, INCIDENTS_MS);
countIncidents();
feed.open();
followPage();
