/** Makes maps of a graph's outputs, as handler/explanation/maps.py and gradient_cams.py do. */

/** A layer's activations and gradients, of `channels` channels of `cells` cells each, to an unscaled map. */
const weighted = (weight) => (activations, gradients, channels, cells) => {
  const map = new Float64Array(cells);
  for (let channel = 0; channel < channels; channel++) {
    const values = activations.subarray(channel * cells, (channel + 1) * cells);
    const slopes = gradients.subarray(channel * cells, (channel + 1) * cells);
    const share = weight(values, slopes);
    for (let cell = 0; cell < cells; cell++) map[cell] += share * values[cell];
  }
  return map.map((value) => Math.max(0, value));
};

const byCell = (product) => (activations, gradients, channels, cells) => {
  const map = new Float64Array(cells);
  for (let place = 0; place < channels * cells; place++)
    map[place % cells] += product(activations[place], gradients[place]);
  return map.map((value) => Math.max(0, value));
};

const sum = (values, of = (value) => value) => values.reduce((total, value, place) => total + of(value, place), 0);

export const FORMULAS = {
  gradcam: weighted((_, slopes) => sum(slopes) / slopes.length),
  "gradcam++": weighted((values, slopes) => {
    const whole = sum(values);
    return sum(slopes, (g) => (Math.max(0, g) * g * g) / (2 * g * g + whole * g * g * g + 1e-6));
  }),
  xgradcam: weighted((values, slopes) => sum(slopes, (g, cell) => g * values[cell]) / (sum(values) + 1e-7)),
  layercam: byCell((value, g) => Math.max(0, g) * value),
  hirescam: byCell((value, g) => g * value),
  gradcam_elementwise: byCell((value, g) => Math.max(0, g * value)),
};

const extent = (values) => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]); // prettier-ignore

/** Scales a map to [0, 1]: subtracts the minimum, divides by `1e-7 + maximum`. */
export function scale(values) {
  const [low, high] = extent(values);
  return Float32Array.from(values, (value) => (value - low) / (1e-7 + high - low));
}

/** Resizes a map (h, w), bilinearly with half-pixel centres. */
export function resize(values, [height, width], [rows, columns]) {
  const places = (whole, resized) =>
    Array.from({ length: resized }, (_, place) => {
      const at = Math.min(Math.max(((place + 0.5) * whole) / resized - 0.5, 0), whole - 1);
      const from = Math.min(Math.floor(at), Math.max(0, whole - 2));
      return [from, Math.min(from + 1, whole - 1), at - from];
    });
  const across = places(width, columns);
  const made = new Float32Array(rows * columns);
  places(height, rows).forEach(([above, below, down], y) =>
    across.forEach(([left, right, share], x) => {
      const mix = (line) => values[line * width + left] * (1 - share) + values[line * width + right] * share;
      made[y * columns + x] = mix(above) * (1 - down) + mix(below) * down;
    }),
  );
  return made;
}

/** The map of the unscaled maps `{values, size}` of one layer or several, at a size. */
export function cam(unscaled, size) {
  const [minima, maxima] = [0, 1].map((end) => unscaled.map(({ values }) => extent(values)[end]));
  const [first] = unscaled;
  const equal = unscaled.length === 1 && first.size[0] === size[0] && first.size[1] === size[1];
  const values = equal ? scale(first.values) : combined(unscaled, size);
  const [min, max] = [minima, maxima].map((ends) => (ends.length === 1 ? ends[0] : ends));
  return { values, shape: [...size], min, max, degenerate: Math.max(...maxima) <= 0 };
}

function combined(unscaled, size) {
  const total = new Float64Array(size[0] * size[1]);
  for (const { values, size: cells } of unscaled)
    resize(scale(values), cells, size).forEach((value, place) => {
      total[place] += value / unscaled.length;
    });
  return scale(total.map((value) => Math.max(0, value)));
}

/** A gradient at the input (C, H, W) as a map (H, W, C), times a map (H, W) if one is given. */
export function atInput(gradient, [channels, height, width], factor) {
  const cells = height * width;
  const values = new Float32Array(gradient.length);
  let most = 0;
  for (let band = 0; band < channels; band++)
    for (let cell = 0; cell < cells; cell++) {
      const value = Math.fround(gradient[band * cells + cell] * (factor ? factor[cell] : 1));
      values[cell * channels + band] = value;
      most = Math.max(most, Math.abs(value));
    }
  return { values, shape: [height, width, channels], max: most, degenerate: most === 0 };
}
