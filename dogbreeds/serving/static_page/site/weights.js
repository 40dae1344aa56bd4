// The large weights of a network, from 20 bits each to float32: dogbreeds/serving/static_page/packed_weights.py.

// Their bytes; `rows` says of each weight how many rows it has, and how many numbers each of these.
export function unpackedWeights(content, rows) {
  const numRows = sum(rows, ([num]) => num);
  const numNumbers = sum(rows, ([num, size]) => num * size);
  const steps = new Float32Array(content, 0, numRows);
  const high = new Int16Array(content, 4 * numRows, numNumbers);
  const low = new Uint8Array(content, 4 * numRows + 2 * numNumbers); // of two numbers in a byte
  const weights = new Float32Array(numNumbers);
  let row = 0, i = 0;
  for (const [num, size] of rows) {
    for (const lastRow = row + num; row < lastRow; row++) {
      for (const end = i + size; i < end; i++) {
        weights[i] = (16 * high[i] + ((low[i >> 1] >> (4 * (i & 1))) & 15)) * steps[row];
      }
    }
  }
  return new Uint8Array(weights.buffer);
}

const sum = (values, of) => values.reduce((total, value) => total + of(value), 0);
