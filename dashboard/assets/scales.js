// Colours of the map: one table of 255 colours per mode and theme, anchored to operations.

export const TENANTS = [
  "#4f86c6", "#e8737f", "#3a9d5d", "#c9a227", "#56b4d3", "#a64d94",
  "#e58a4e", "#2fa58c", "#8277d6", "#93a832", "#7fa7c9", "#b06a3b",
];
export const OTHER = "#7b8694";

// `at` is in the column's own unit; the last stop of a healthy range stays dim, so that a
// healthy fleet looks calm and only what needs a person stands out.
export const SCALES = {
  temperature: {
    column: "temperature_c", unit: "°C", perUnit: 1, low: "≤ 25", high: "≥ 95", mark: 84, markText: "84\u2009°C limit",
    dark: [[25, "#152036"], [50, "#252b5a"], [66, "#42397c"], [78, "#7d3f86"], [82, "#c24d74"], [84, "#f5893b"], [95, "#fdf3bd"]],
    light: [[25, "#eaf0f8"], [50, "#cbd3ec"], [66, "#aaa7da"], [78, "#a878b8"], [82, "#bd4a7c"], [84, "#b3202f"], [95, "#4a0610"]],
  },
  utilization: {
    column: "utilization", unit: "%", perUnit: 2, low: "0", high: "100",
    dark: [[0, "#16232a"], [50, "#1d5f60"], [100, "#43cfbb"]],
    light: [[0, "#edf3f3"], [50, "#84c3bb"], [100, "#0a6f66"]],
  },
  power: {
    column: "power_w", unit: "W", perUnit: 1 / 6, low: "0", high: "720",
    dark: [[0, "#17202f"], [300, "#4b5468"], [540, "#9c8f5e"], [720, "#f0d860"]],
    light: [[0, "#f1f1ea"], [300, "#c9c7ad"], [540, "#8d8049"], [720, "#4a3f0c"]],
  },
  delivered: {
    column: "delivered", unit: "% of nameplate", perUnit: 2, low: "0", high: "80",
    dark: [[0, "#152030"], [40, "#1f5c8f"], [80, "#5cc3ff"]],
    light: [[0, "#eaf1f8"], [40, "#8fb9de"], [80, "#0a5699"]],
  },
};

function channels(colour) {
  return [1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16));
}

function blend(stops, value) {
  if (value <= stops[0][0]) return stops[0][1];
  for (let index = 1; index < stops.length; index += 1) {
    const [above, colour] = stops[index];
    if (value > above) continue;
    const [below, before] = stops[index - 1];
    const part = (value - below) / (above - below);
    const from = channels(before);
    const mixed = channels(colour).map((to, at) => Math.round(from[at] + (to - from[at]) * part));
    return `rgb(${mixed.join(",")})`;
  }
  return stops.at(-1)[1];
}

// The colours of byte values 0–254 of a mode's column.
export function colourTable(mode, theme) {
  const scale = SCALES[mode];
  return Array.from({ length: 255 }, (_, byte) => blend(scale[theme], byte / scale.perUnit));
}

export function gradient(mode, theme) {
  const stops = SCALES[mode][theme];
  const low = stops[0][0];
  const span = stops.at(-1)[0] - low;
  const parts = stops.map(([at, colour]) => `${colour} ${((100 * (at - low)) / span).toFixed(1)}%`);
  return `linear-gradient(to right, ${parts.join(", ")})`;
}

// Where the scale's mark stands, as a fraction of its width; null when it has none.
export function markAt(mode) {
  const { dark: stops, mark } = SCALES[mode];
  if (mark === undefined) return null;
  return (mark - stops[0][0]) / (stops.at(-1)[0] - stops[0][0]);
}
