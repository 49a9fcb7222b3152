// Contour lines of a grid by marching squares, and the levels to draw.

/** Round levels that cut the range of the values into about `count` parts, denser where the grid's values lie. */
export function levels(values, count) {
  const sorted = Float64Array.from(values).sort();
  const low = sorted[0];
  const high = sorted[Math.floor(0.92 * (sorted.length - 1))]; // a convex score is steep at the rim
  if (!(high > low)) return [];
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough);
  const found = [];
  const top = sorted[sorted.length - 1];
  for (let k = Math.ceil(low / step); k * step <= top && found.length < 3 * count; k += 1) found.push(k * step);
  return found;
}

/** Line segments [x0, y0, x1, y1] in grid units where the n x n values, row by row, cross a level. */
export function segments(values, n, level) {
  const lines = [];
  for (let j = 0; j + 1 < n; j += 1) {
    for (let i = 0; i + 1 < n; i += 1) {
      const a = values[j * n + i] - level;
      const b = values[j * n + i + 1] - level;
      const c = values[(j + 1) * n + i + 1] - level;
      const d = values[(j + 1) * n + i] - level;
      const cuts = [];
      if (a > 0 !== b > 0) cuts.push([i + a / (a - b), j]);
      if (b > 0 !== c > 0) cuts.push([i + 1, j + b / (b - c)]);
      if (c > 0 !== d > 0) cuts.push([i + d / (d - c), j + 1]);
      if (d > 0 !== a > 0) cuts.push([i, j + a / (a - d)]);
      for (let k = 0; k + 1 < cuts.length; k += 2) lines.push([...cuts[k], ...cuts[k + 1]]);
    }
  }
  return lines;
}
