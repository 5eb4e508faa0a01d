// Numbers and ages as people read them; a value that is absent is a dash, never a nought.

export const THIN = "\u2009";
export const NONE = "–";

const formats = new Map();

function format(decimals) {
  if (!formats.has(decimals)) {
    const options = { minimumFractionDigits: decimals, maximumFractionDigits: decimals, signDisplay: "negative" };
    formats.set(decimals, new Intl.NumberFormat("en-GB", options));
  }
  return formats.get(decimals);
}

export function number(value, decimals = 0) {
  return value === null || value === undefined ? NONE : format(decimals).format(value).replace("-", "−");
}

export function withUnit(value, unit, decimals = 0) {
  return value === null || value === undefined ? NONE : `${number(value, decimals)}${THIN}${unit}`;
}

export function percent(part, whole, decimals = 0) {
  if (part === null || part === undefined || !whole) return NONE;
  return `${number((100 * part) / whole, decimals)}${THIN}%`;
}

// The decimals that suit a column whose largest value is `most`, the same for each of its rows.
export function decimalsFor(most) {
  return most >= 10_000 ? 0 : most >= 100 ? 1 : most >= 1 ? 2 : 3;
}

export function power(kilowatts) {
  if (kilowatts === null || kilowatts === undefined) return [NONE, ""];
  if (kilowatts >= 1000) return [number(kilowatts / 1000, 3), "MW"];
  return [number(kilowatts, kilowatts >= 100 ? 1 : 2), "kW"];
}

export function age(seconds) {
  const whole = Math.floor(seconds);
  if (whole < 60) return `${whole}${THIN}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}${THIN}min ${whole % 60}${THIN}s`;
  return `${Math.floor(whole / 3600)}${THIN}h ${Math.floor((whole % 3600) / 60)}${THIN}min`;
}

export function setText(id, text) {
  const element = document.getElementById(id);
  if (element && element.textContent !== text) element.textContent = text;
}

// Makes `parent` hold `count` rows made by `make`, without touching those that stay.
export function keepRows(parent, count, make) {
  while (parent.children.length > count) parent.lastElementChild.remove();
  while (parent.children.length < count) parent.append(make());
  return parent.children;
}

export function element(tag, name, ...children) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.append(...children);
  return made;
}

// Opens a page inside Dash, without a reload.
export function go(path) {
  history.pushState({}, "", path);
  dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
}

// How much larger than 14 px the page's type is: canvas text follows it.
export function typeScale() {
  return Number.parseFloat(getComputedStyle(document.documentElement).fontSize) / 14;
}
