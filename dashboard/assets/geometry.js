// Places every GPU of a layout into a box: halls → racks → nodes (rows) → slots (columns).

// Sizes at 14 px type; `scale` is how much larger the page's type is.
const SIZES = { label: 15, hall: 22, hallSpace: 8, rowSpace: 8, rackSpace: 12, most: 24 };
const MOST_COLUMNS = 8;
const CELL_LEAST = 3;

// GPUs in frame order, with the names needed to speak of them.
export function listGpus(layout) {
  const gpus = [];
  for (const hall of layout.halls) {
    for (const rack of hall.racks) {
      for (const node of rack.nodes) {
        node.slots.forEach((slot, index) => {
          gpus.push({ hall: hall.name, rack: rack.name, node: node.name, model: node.model, slot, index, plate: node.pflops_per_gpu });
        });
      }
    }
  }
  return gpus;
}

function rowsOf(node) {
  return Math.max(1, Math.ceil(node.slots.length / MOST_COLUMNS));
}

function rackRows(rack) {
  return rack.nodes.reduce((sum, node) => sum + rowsOf(node), 0);
}

// The number of racks side by side, and the cell, that fill width × height best.
function choose(layout, width, height, sizes) {
  const tallest = Math.max(...layout.halls.flatMap((hall) => hall.racks.map(rackRows)));
  const widest = Math.max(...layout.halls.map((hall) => hall.racks.length));
  let best = null;
  for (let across = 1; across <= widest; across += 1) {
    const lines = layout.halls.reduce((sum, hall) => sum + Math.ceil(hall.racks.length / across), 0);
    const wide = Math.floor((width - (across - 1) * sizes.rackSpace) / across / MOST_COLUMNS);
    const fixed = layout.halls.length * (sizes.hall + sizes.hallSpace) - sizes.hallSpace + lines * (sizes.label + sizes.rowSpace) - sizes.rowSpace;
    const high = Math.floor((height - fixed) / lines / tallest);
    const cellWide = Math.min(wide, Math.floor(high * 1.6), sizes.most);
    const cellHigh = Math.min(high, Math.floor(wide * 1.6), sizes.most);
    if (cellWide < CELL_LEAST || cellHigh < CELL_LEAST) continue;
    // Large cells, and lines that are full: a rack alone in its line wastes all the others.
    const filled = layout.halls.reduce((sum, hall) => sum + hall.racks.length, 0) / (lines * across);
    const score = cellWide * cellHigh * Math.sqrt(filled);
    if (!best || score > best.score) best = { across, cellWide, cellHigh, score };
  }
  return best ?? { across: 1, cellWide: CELL_LEAST, cellHigh: CELL_LEAST };
}

function chooseByWidth(width, sizes) {
  const across = Math.max(1, Math.min(3, Math.floor((width + sizes.rackSpace) / (MOST_COLUMNS * 11 + sizes.rackSpace))));
  const cell = Math.min(sizes.most, Math.floor((width - (across - 1) * sizes.rackSpace) / across / MOST_COLUMNS));
  return { across, cellWide: cell, cellHigh: Math.min(cell, 14) };
}

// → {x, y: Int16Array per GPU, cellWide, cellHigh, labels, height}; height null flows freely.
export function place(layout, width, height, scale) {
  const sizes = Object.fromEntries(Object.entries(SIZES).map(([name, size]) => [name, Math.round(size * scale)]));
  const { across, cellWide, cellHigh } = height === null ? chooseByWidth(width, sizes) : choose(layout, width, height, sizes);
  const rackWide = cellWide * MOST_COLUMNS;
  const space = across > 1 ? (width - across * rackWide) / (across - 1) : 0;
  const x = new Float32Array(layout.gpus);
  const y = new Float32Array(layout.gpus);
  const labels = [];
  let gpu = 0;
  let top = 0;
  for (const hall of layout.halls) {
    labels.push({ text: hall.name, detail: hallDetail(hall), x: 0, y: top + 12 * scale, hall: true });
    top += sizes.hall;
    for (let first = 0; first < hall.racks.length; first += across) {
      const line = hall.racks.slice(first, first + across);
      line.forEach((rack, column) => {
        const left = Math.round(column * (rackWide + space));
        labels.push({ text: rack.name, x: left, y: top + 10 * scale, hall: false });
        gpu = placeRack(rack, left, top + sizes.label, { cellWide, cellHigh }, { x, y }, gpu);
      });
      top += sizes.label + Math.max(...line.map(rackRows)) * cellHigh + sizes.rowSpace;
    }
    top += sizes.hallSpace;
  }
  return { x, y, cellWide, cellHigh, labels, height: Math.ceil(top - sizes.hallSpace - sizes.rowSpace + 2) };
}

function placeRack(rack, left, top, cell, out, start) {
  let gpu = start;
  let row = 0;
  for (const node of rack.nodes) {
    node.slots.forEach((_, index) => {
      out.x[gpu] = left + (index % MOST_COLUMNS) * cell.cellWide;
      out.y[gpu] = top + (row + Math.floor(index / MOST_COLUMNS)) * cell.cellHigh;
      gpu += 1;
    });
    row += rowsOf(node);
  }
  return gpu;
}

function hallDetail(hall) {
  const nodes = hall.racks.flatMap((rack) => rack.nodes);
  const models = [...new Set(nodes.map((node) => node.model))];
  const gpus = nodes.reduce((sum, node) => sum + node.slots.length, 0);
  return `${gpus.toLocaleString("en-GB")} × ${models.join(", ")}`;
}

// The GPU at a point, or -1.
export function gpuAt(placed, pointX, pointY) {
  for (let gpu = 0; gpu < placed.x.length; gpu += 1) {
    const dx = pointX - placed.x[gpu];
    const dy = pointY - placed.y[gpu];
    if (dx >= 0 && dx < placed.cellWide && dy >= 0 && dy < placed.cellHigh) return gpu;
  }
  return -1;
}

// The nearest GPU in a direction; the same one when there is none.
export function neighbour(placed, from, stepX, stepY) {
  let best = from;
  let least = Infinity;
  for (let gpu = 0; gpu < placed.x.length; gpu += 1) {
    const dx = placed.x[gpu] - placed.x[from];
    const dy = placed.y[gpu] - placed.y[from];
    const along = dx * stepX + dy * stepY;
    if (along < 1) continue;
    const aside = Math.abs(stepX ? dy : dx);
    const cost = along + aside * 8;
    if (cost < least) {
      least = cost;
      best = gpu;
    }
  }
  return best;
}
