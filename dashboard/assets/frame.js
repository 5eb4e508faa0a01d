// Decodes live frames: "PWF1" and a zlib stream of a header and byte columns.

const MAGIC = 0x31465750; // "PWF1", little-endian
export const ABSENT = 255;
export const STATE = { reporting: 1, active: 2, throttled: 4, down: 8, allocated: 16, capped: 32 };

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

// An ArrayBuffer → {header, columns}; each column a Uint8Array with one byte per GPU.
export async function decodeFrame(buffer) {
  if (new DataView(buffer).getUint32(0, true) !== MAGIC) throw new Error("not a live frame");
  const body = await inflate(new Uint8Array(buffer, 4));
  const headerBytes = new DataView(body).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(body, 4, headerBytes)));
  const start = 4 + headerBytes;
  const count = (body.byteLength - start) / header.columns.length;
  const columns = {};
  header.columns.forEach((name, index) => {
    columns[name] = new Uint8Array(body, start + index * count, count);
  });
  return { header, columns, count };
}
