// Places every GPU of a layout into a box: halls → racks → nodes (rows) → slots (columns).

const LABEL = 15;
const HALL = 22;
const HALL_SPACE = 8;
const ROW_SPACE = 8;
const RACK_SPACE = 12;
const MOST_COLUMNS = 8;
const CELL_LEAST = 3;
const CELL_MOST = 24;

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
function choose(layout, width, height) {
  const tallest = Math.max(...layout.halls.flatMap((hall) => hall.racks.map(rackRows)));
  const widest = Math.max(...layout.halls.map((hall) => hall.racks.length));
  let best = null;
  for (let across = 1; across <= widest; across += 1) {
    const lines = layout.halls.reduce((sum, hall) => sum + Math.ceil(hall.racks.length / across), 0);
    const wide = Math.floor((width - (across - 1) * RACK_SPACE) / across / MOST_COLUMNS);
    const fixed = layout.halls.length * (HALL + HALL_SPACE) - HALL_SPACE + lines * (LABEL + ROW_SPACE) - ROW_SPACE;
    const free = height === null ? wide * lines * tallest : height - fixed;
    const high = Math.floor(free / lines / tallest);
    const cellWide = Math.min(wide, Math.floor(high * 1.5), CELL_MOST);
    const cellHigh = Math.min(high, Math.floor(wide * 1.5), CELL_MOST);
    if (cellWide < CELL_LEAST || cellHigh < CELL_LEAST) continue;
    const score = cellWide * cellHigh;
    if (!best || score > best.score) best = { across, cellWide, cellHigh, score };
  }
  return best ?? { across: 1, cellWide: CELL_LEAST, cellHigh: CELL_LEAST };
}

function chooseByWidth(layout, width) {
  const across = Math.max(1, Math.min(3, Math.floor((width + RACK_SPACE) / (MOST_COLUMNS * 11 + RACK_SPACE))));
  const cell = Math.min(CELL_MOST, Math.floor((width - (across - 1) * RACK_SPACE) / across / MOST_COLUMNS));
  return { across, cellWide: cell, cellHigh: Math.min(cell, 14) };
}

// → {x, y: Int16Array per GPU, cellWide, cellHigh, labels, height}; height null flows freely.
export function place(layout, width, height) {
  const { across, cellWide, cellHigh } = height === null ? chooseByWidth(layout, width) : choose(layout, width, height);
  const rackWide = cellWide * MOST_COLUMNS;
  const space = across > 1 ? Math.min(40, (width - across * rackWide) / (across - 1)) : 0;
  const x = new Float32Array(layout.gpus);
  const y = new Float32Array(layout.gpus);
  const labels = [];
  let gpu = 0;
  let top = 0;
  for (const hall of layout.halls) {
    labels.push({ text: hall.name, detail: hallDetail(hall), x: 0, y: top + 12, hall: true });
    top += HALL;
    for (let first = 0; first < hall.racks.length; first += across) {
      const line = hall.racks.slice(first, first + across);
      line.forEach((rack, column) => {
        const left = Math.round(column * (rackWide + space));
        labels.push({ text: rack.name, x: left, y: top + 10, hall: false });
        gpu = placeRack(rack, left, top + LABEL, { cellWide, cellHigh }, { x, y }, gpu);
      });
      top += LABEL + Math.max(...line.map(rackRows)) * cellHigh + ROW_SPACE;
    }
    top += HALL_SPACE;
  }
  return { x, y, cellWide, cellHigh, labels, height: Math.ceil(top - HALL_SPACE - ROW_SPACE + 2) };
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
