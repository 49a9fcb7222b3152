// The rows of a picture: ranges of the features, the grid over the axes, and the tangent plane against that grid.

const SPREAD = 3; // the picture shows this many standard deviations to both sides of the mean
const GRID = 48;
const CURVE = 200;
const MAX_NUMBERS = 4e5; // of one request: beyond 170 features the grid is coarser
const ULP = 2 ** -23;
const ROUNDING_ULPS = 16;

/**
 * Names, start, deviation and range of every feature of a version; without a manifest's means: 0 and 1. Features of a
 * context come last: the score is convex in the others only, so that these are never axes.
 */
export function features(details) {
  const { dim, context } = details;
  return Array.from({ length: dim + (context?.dim ?? 0) }, (_, index) => {
    const isContext = index >= dim;
    const place = isContext ? index - dim : index;
    const mean = (isContext ? details.context_means : details.feature_means)?.[place] ?? 0;
    const deviations = isContext ? details.context_deviations : details.feature_deviations;
    const deviation = deviations?.[place] || Math.abs(mean) / 10 || 1;
    const name = isContext ? `${context.features[place] ?? place} (context)` : details.features[place] ?? `x[${place}]`;
    return {
      index,
      isContext,
      name,
      start: Math.fround(mean),
      deviation,
      low: Math.fround(mean - SPREAD * deviation),
      high: Math.fround(mean + SPREAD * deviation),
    };
  });
}

/** The grid over one or two axes through a point: { n, ticks: [[...], [...]], rows: Float32Array }. */
export function grid(point, axes) {
  const dim = point.length;
  const side = Math.floor(Math.sqrt(MAX_NUMBERS / dim));
  const n = axes.length === 1 ? CURVE : Math.max(12, Math.min(GRID, side));
  const ticks = axes.map(({ low, high }) =>
    Float32Array.from({ length: n }, (_, k) => low + ((high - low) * k) / (n - 1)));
  const count = n ** axes.length;
  const rows = new Float32Array(count * dim);
  for (let row = 0; row < count; row += 1) {
    rows.set(point, row * dim);
    rows[row * dim + axes[0].index] = ticks[0][row % n];
    if (axes.length === 2) rows[row * dim + axes[1].index] = ticks[1][Math.floor(row / n)];
  }
  return { n, ticks, rows, count };
}

/** How many of the grid's points lie on or above the tangent plane at the point, and the smallest gap. */
export function tangentCheck(point, answer, picture) {
  const f = answer.scores[0];
  const { n, ticks } = picture.grid;
  let above = 0;
  let smallest = Infinity;
  picture.scores.forEach((z, row) => {
    let rise = 0;
    picture.axes.forEach((axis, k) => {
      const tick = ticks[k][k === 0 ? row % n : Math.floor(row / n)];
      rise += answer.gradients[axis.index] * (tick - point[axis.index]);
    });
    const gap = z - (f + rise);
    const rounding = ROUNDING_ULPS * ULP * Math.max(1, Math.abs(f), Math.abs(z), Math.abs(rise));
    if (gap >= -rounding) above += 1;
    smallest = Math.min(smallest, gap);
  });
  return { above, count: picture.scores.length, smallest };
}
