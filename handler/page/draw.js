// Lays maps on the whole picture, and marks what the network did not see.

const MOST = 720; // pixels of a figure's longer side

/** Height and width of a figure of a picture of this height and width. */
export function figureSize([height, width]) {
  const scale = Math.min(1, MOST / Math.max(height, width));
  return [Math.max(1, Math.round(height * scale)), Math.max(1, Math.round(width * scale))];
}

/**
 * A map's values at each pixel of a figure, `height · width · channels`, bilinearly; NaN where the network saw nothing.
 *
 * `view` is the answer's: `image`, height and width of the upload; `crop`, top, left, bottom and right in its pixels.
 */
export function onFigure(map, view, [height, width]) {
  const made = new Float32Array(height * width * map.channels).fill(NaN);
  const rows = places(height, view.image[0], view.crop[0], view.crop[2], map.height);
  const columns = places(width, view.image[1], view.crop[1], view.crop[3], map.width);
  for (const [y, top, bottom, down] of rows) {
    for (const [x, left, right, across] of columns) {
      for (let band = 0; band < map.channels; band += 1) {
        const at = (row, column) => map.data[(row * map.width + column) * map.channels + band];
        const above = at(top, left) + across * (at(top, right) - at(top, left));
        const below = at(bottom, left) + across * (at(bottom, right) - at(bottom, left));
        made[(y * width + x) * map.channels + band] = above + down * (below - above);
      }
    }
  }
  return made;
}

/** For each seen pixel of one side, at least one: its place, the two cells around it, its share of the second. */
function places(length, whole, start, stop, cells) {
  const [from, to] = [start, stop].map((edge) => Math.ceil((edge * length) / whole - 0.5)); // the next centre
  const begin = Math.min(length - 1, Math.max(0, from));
  const found = [];
  for (let place = begin; place < Math.max(begin + 1, Math.min(length, to)); place += 1) {
    const pixel = ((place + 0.5) * whole) / length; // in the upload
    const cell = Math.min(cells - 1, Math.max(0, ((pixel - start) * cells) / (stop - start) - 0.5));
    const first = Math.floor(cell);
    found.push([place, first, Math.min(first + 1, cells - 1), cell - first]);
  }
  return found;
}

/** The value at a point of the upload, the nearest of the map's; null where the network saw nothing. */
export function valueAt(map, view, y, x) {
  const [top, left, bottom, right] = view.crop;
  if (y < top || y >= bottom || x < left || x >= right) return null;
  const row = Math.min(map.height - 1, Math.floor(((y - top) * map.height) / (bottom - top)));
  const column = Math.min(map.width - 1, Math.floor(((x - left) * map.width) / (right - left)));
  const place = (row * map.width + column) * map.channels;
  return Array.from(map.data.subarray(place, place + map.channels));
}

/** Blends a map on [0, 1] into a figure's pixels, RGBA: `(1 - weight) · heat + weight · picture` from the threshold. */
export function blend(pixels, values, { weight, threshold, table }) {
  for (let place = 0; place < values.length; place += 1) {
    if (!(values[place] >= threshold)) continue; // NaN, too
    const entry = 3 * Math.floor(255 * Math.min(1, Math.max(0, values[place])));
    for (let band = 0; band < 3; band += 1) {
      pixels[4 * place + band] = (1 - weight) * table[entry + band] + weight * pixels[4 * place + band];
    }
  }
}

/** Draws signed values in relief on grey: a tenth of a standard deviation is a hundredth of the grey scale. */
export function relief(pixels, values, channels, map) {
  const bands = channels > 2 ? [0, 1, 2] : [0, 0, 0];
  const [mean, deviation] = moments(map, bands);
  for (let place = 0; 4 * place < pixels.length; place += 1) {
    if (Number.isNaN(values[place * channels])) continue;
    bands.forEach((band, shownBand) => {
      const level = (0.1 * (values[place * channels + band] - mean)) / (deviation + 1e-5) + 0.5;
      pixels[4 * place + shownBand] = 255 * Math.min(1, Math.max(0, level));
    });
  }
}

/** Mean and standard deviation of the bands of a map that are shown. */
function moments(map, bands) {
  const used = [...new Set(bands)];
  const count = map.height * map.width * used.length;
  const over = (of) => {
    let sum = 0;
    for (let place = 0; place < map.data.length; place += map.channels) {
      for (const band of used) sum += of(map.data[place + band]);
    }
    return sum / count;
  };
  const mean = over((value) => value);
  return [mean, Math.sqrt(over((value) => (value - mean) ** 2))];
}

/** Dims and hatches the pixels of a figure that the network did not see. */
export function hatch(pixels, values, channels, [height, width]) {
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const place = y * width + x;
      if (!Number.isNaN(values[place * channels])) continue;
      const grey = (pixels[4 * place] + pixels[4 * place + 1] + pixels[4 * place + 2]) / 6;
      const level = (x + y) % 10 < 2 ? 190 : 0.7 * grey + 20;
      pixels.fill(level, 4 * place, 4 * place + 3);
      pixels[4 * place + 3] = 255;
    }
  }
}

/** Blurs pixels, RGBA, in place: averages of cells, `most` along the longer side, bilinearly between their centres. */
export function blurPixels(pixels, [height, width], most) {
  const [rows, columns] = [height, width].map((side) =>
    Math.max(1, Math.min(side, Math.round((side * most) / Math.max(height, width)))),
  );
  const cells = averages(pixels, [height, width], [rows, columns]);
  const line = new Float64Array(3 * columns);
  const across = places(width, width, 0, width, columns);
  for (const [y, top, bottom, down] of places(height, height, 0, height, rows)) {
    line.forEach((_, at) => {
      const above = cells[line.length * top + at];
      line[at] = above + down * (cells[line.length * bottom + at] - above);
    });
    for (let x = 0; x < width; x += 1) {
      const cell = across[x]; // its parts by name would take twice the time
      const [left, right] = [3 * cell[1], 3 * cell[2]];
      const share = cell[3];
      for (let band = 0; band < 3; band += 1) {
        const first = line[left + band];
        pixels[4 * (y * width + x) + band] = first + share * (line[right + band] - first);
      }
    }
  }
}

/** The averages of pixels (RGBA) in cells, `rows · columns · 3`. */
function averages(pixels, [height, width], [rows, columns]) {
  const cells = new Float64Array(3 * rows * columns);
  const across = overlaps(width, columns);
  for (const [y, top, bottom, below] of overlaps(height, rows)) {
    const line = new Float64Array(3 * columns);
    for (let x = 0; x < width; x += 1) {
      const cell = across[x];
      const [left, right] = [3 * cell[1], 3 * cell[2]];
      const beside = cell[3];
      for (let band = 0; band < 3; band += 1) {
        const value = pixels[4 * (y * width + x) + band];
        line[left + band] += (1 - beside) * value;
        if (beside) line[right + band] += beside * value;
      }
    }
    line.forEach((value, at) => {
      const share = (value * rows * columns) / (height * width);
      cells[line.length * top + at] += (1 - below) * share;
      cells[line.length * bottom + at] += below * share;
    });
  }
  return cells;
}

/** For each pixel of one side: its place, the two cells that it lies in, and its share of the second. */
function overlaps(length, cells) {
  return Array.from({ length }, (_, place) => {
    const [begin, end] = [(place * cells) / length, ((place + 1) * cells) / length];
    const first = Math.floor(begin);
    return [place, first, Math.min(first + 1, cells - 1), Math.max(0, (end - first - 1) / (end - begin))];
  });
}

/** A canvas of a size, and its context for reading pixels. */
export function blank([height, width]) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  return { canvas, context };
}

/** The pixels of a picture at a figure's size; grey where the browser cannot show the picture. */
export function pixelsOf(picture, [height, width]) {
  const { context } = blank([height, width]);
  context.fillStyle = "#808080";
  context.fillRect(0, 0, width, height);
  if (picture.bitmap) context.drawImage(picture.bitmap, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}
