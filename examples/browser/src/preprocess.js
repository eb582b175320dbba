/**
 * Makes the network's input of decoded pixels, as handler/picture/preprocess.py does.
 *
 * Pillow's filters are computed with Pillow's own whole numbers, so that the pixels are equal, not just similar.
 */
import { badRequest, modelError } from "./errors.js";

const BITS = 22; // of the fraction of Pillow's weights
const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
const FILTERS = {
  // name: half of the width, and the weight at a distance
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  hamming: [1, (x) => (Math.abs(x) >= 1 ? 0 : sinc(x) * (0.54 + 0.46 * Math.cos(Math.PI * x)))],
  bicubic: [2, (x) => cubic(Math.abs(x))],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

function cubic(x) {
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

/** Rounds as Python does: halves to the even number. */
export function roundEven(value) {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return rest < 0.5 ? floor : floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

const pair = (size) => (Array.isArray(size) ? size : [size, size]);

/** Checks and completes the preprocessing of a graph's metadata; throws a ModelError for what is not known here. */
export function readPreprocessing(fields) {
  const how = { interpolation: "bilinear", crop_first: false, crop_mode: "center", ...fields };
  const valid = ["nearest", ...Object.keys(FILTERS), ...(how.crop_first ? ["area"] : [])];
  if (!valid.includes(how.interpolation))
    throw modelError(`the graph's interpolation is ${how.interpolation}, valid are ${valid.join(", ")}`);
  if (!["center", "squash", "border"].includes(how.crop_mode))
    throw modelError(`the graph's crop_mode is ${how.crop_mode}, valid are center, squash and border`);
  const sizes = [...pair(how.resize_size), ...pair(how.crop_size)];
  const numbers = Array.isArray(how.mean) && Array.isArray(how.std) && how.mean.length === how.std.length;
  if (!sizes.every((side) => Number.isInteger(side) && side > 0) || !numbers || !how.mean.length)
    throw modelError("the graph's preprocessing must have resize_size, crop_size, and mean and std for each channel");
  return { ...how, size: pair(how.crop_size), resized: pair(how.resize_size), channels: how.mean.length };
}

/**
 * Makes the input of a picture `{data, width, height, channels}`, bytes in rows of pixels: the tensor, float32
 * (C, h, w); the same crop before it was normalised, bytes (h, w, C); and where the crop lies in the picture.
 * Of four channels for a network with three the last is transparency and is dropped, as the server does.
 */
export function preprocess(image, how) {
  const view = inBands(image, how.channels);
  const { picture, crop } = how.crop_first ? cropThenResize(view, how) : resizeThenCrop(view, how);
  return { tensor: normalise(picture, how), picture, crop, image: [view.height, view.width] };
}

/** A picture as rows of pixels with the bands that the network takes. */
function inBands(image, channels) {
  const { data, width, height } = image;
  const given = image.channels ?? data.length / (width * height);
  if (!(width > 0 && height > 0) || data.length !== width * height * given)
    throw badRequest(`pixels of ${width}x${height} and ${given} channels must be as many bytes, there are ${data.length}`);
  const view = { data, width, height, bands: channels, stride: given, row: width * given, offset: 0 };
  if (given === channels || (channels === 3 && given === 4)) return view;
  if (channels === 3 && given === 1) return { ...view, data: repeated(data), stride: 3, row: width * 3 };
  if (channels === 1 && (given === 3 || given === 4))
    return { ...view, data: grey(data, given), stride: 1, row: width };
  throw badRequest(`the picture has ${given} bands, and the network takes ${channels}`);
}

function repeated(data) {
  const whole = new Uint8Array(data.length * 3);
  for (let place = 0; place < whole.length; place++) whole[place] = data[(place / 3) | 0];
  return whole;
}

/** Pillow's "L". */
function grey(data, stride) {
  const whole = new Uint8Array(data.length / stride);
  for (let place = 0, from = 0; place < whole.length; place++, from += stride)
    whole[place] = (data[from] * 19595 + data[from + 1] * 38470 + data[from + 2] * 7471 + 0x8000) >> 16;
  return whole;
}

function normalise(picture, how) {
  const [height, width] = how.size;
  const cells = height * width;
  const tensor = new Float32Array(how.channels * cells);
  for (let band = 0; band < how.channels; band++) {
    const mean = Math.fround(how.mean[band]);
    const std = Math.fround(how.std[band]);
    const table = Float32Array.from({ length: 256 }, (_, value) => Math.fround(Math.fround(value / 255) - mean) / std);
    for (let cell = 0; cell < cells; cell++) tensor[band * cells + cell] = table[picture[cell * how.channels + band]];
  }
  return tensor;
}

function cropThenResize(view, how) {
  const { height, width } = view;
  const [rows, columns] = how.resized;
  const [part, whole] = height * columns <= width * rows ? [height, rows] : [width, columns]; // of the side that limits
  const [down, across] = how.size.map((side) => Math.max(1, Math.floor((side * part) / whole)));
  const top = Math.floor((height - down) / 2);
  const left = Math.floor((width - across) / 2);
  const offset = view.offset + top * view.row + left * view.stride;
  const cut = { ...view, offset, height: down, width: across };
  const window = [0, 0, ...how.size];
  const resize = how.interpolation === "area" ? resizeByArea : resizeAsPillow;
  return { picture: resize(cut, how.size, window, how.interpolation), crop: [top, left, top + down, left + across] };
}

function resizeThenCrop(view, how) {
  const [height, width] = how.size;
  const [rows, columns] = resizedSize(view.height, view.width, how);
  const [top, left] = [start(rows, height), start(columns, width)];
  const [tall, wide] = [view.height / rows, view.width / columns]; // pixels of the picture per resized pixel
  const crop = [top * tall, left * wide, (top + height) * tall, (left + width) * wide];
  // what the crop leaves out is not computed
  const inside = [Math.max(0, top), Math.max(0, left), Math.min(rows, top + height), Math.min(columns, left + width)];
  const made = resizeAsPillow(view, [rows, columns], inside, how.interpolation);
  if (top >= 0 && left >= 0) return { picture: made, crop };
  const picture = new Uint8Array(height * width * how.channels); // the mean colour lies beyond the edges
  const mean = how.mean.map((value) => Math.min(255, Math.max(0, roundEven(255 * value))));
  for (let place = 0; place < picture.length; place++) picture[place] = mean[place % how.channels];
  const line = (inside[3] - inside[1]) * how.channels;
  for (let y = 0; y < inside[2] - inside[0]; y++)
    picture.set(
      made.subarray(y * line, (y + 1) * line),
      ((y + inside[0] - top) * width + inside[1] - left) * how.channels,
    );
  return { picture, crop };
}

/** Rows and columns of the whole picture after resizing, rounded as torchvision and timm do. */
function resizedSize(height, width, how) {
  if (how.crop_mode === "squash") return how.resized;
  if (how.crop_mode === "border" || how.resized[0] !== how.resized[1]) {
    const ratios = [height / how.resized[0], width / how.resized[1]];
    const ratio = how.crop_mode === "border" ? Math.max(...ratios) : Math.min(...ratios);
    return [Math.max(1, roundEven(height / ratio)), Math.max(1, roundEven(width / ratio))];
  }
  const shorter = how.resized[0];
  return height > width
    ? [Math.trunc((shorter * height) / width), shorter]
    : [shorter, Math.trunc((shorter * width) / height)];
}

/** Where a centre crop begins; before the edge where it is larger than the whole. */
const start = (whole, part) => (whole >= part ? roundEven((whole - part) / 2) : -Math.floor((part - whole) / 2));

/** The window (top, left, bottom, right) of the view resized to a size (rows, columns). */
function resizeAsPillow(view, size, window, interpolation) {
  if (interpolation === "nearest") return resizeToNearest(view, size, window);
  const across = weights(view.width, size[1], window[1], window[3], interpolation);
  const down = weights(view.height, size[0], window[0], window[2], interpolation);
  const first = Math.min(...[...down.starts]);
  const last = down.starts.reduce((most, from, place) => Math.max(most, from + down.counts[place]), 0);
  const { data, stride, bands } = view;
  const columns = window[3] - window[1];
  const between = new Uint8ClampedArray((last - first) * columns * bands); // resized across
  for (let y = first, to = 0; y < last; y++) {
    const line = view.offset + y * view.row;
    for (let x = 0; x < columns; x++) {
      const begin = line + across.starts[x] * stride;
      const [count, known] = [across.counts[x], x * across.most];
      for (let band = 0; band < bands; band++) {
        let sum = 1 << (BITS - 1);
        for (let k = 0, from = begin + band; k < count; k++, from += stride)
          sum = (sum + Math.imul(across.values[known + k], data[from])) | 0;
        between[to++] = sum >> BITS;
      }
    }
  }
  const line = columns * bands;
  const made = new Uint8ClampedArray((window[2] - window[0]) * line);
  for (let y = 0, to = 0; y < window[2] - window[0]; y++) {
    const begin = (down.starts[y] - first) * line;
    const [count, known] = [down.counts[y], y * down.most];
    for (let place = 0; place < line; place++) {
      let sum = 1 << (BITS - 1);
      for (let k = 0, from = begin + place; k < count; k++, from += line)
        sum = (sum + Math.imul(down.values[known + k], between[from])) | 0;
      made[to++] = sum >> BITS;
    }
  }
  return made;
}

/** For each resized pixel from `from` to before `to`: where its weights begin, how many they are, and their values. */
function weights(size, resized, from, to, interpolation) {
  const [reach, filter] = FILTERS[interpolation];
  const scale = size / resized;
  const wide = Math.max(scale, 1); // an enlarged picture is interpolated, a reduced one averaged
  const support = reach * wide;
  const most = Math.ceil(support) * 2 + 1;
  const starts = new Int32Array(to - from);
  const counts = new Int32Array(to - from);
  const values = new Int32Array((to - from) * most);
  for (let place = 0; place < to - from; place++) {
    const centre = (place + from + 0.5) * scale;
    const begin = Math.max(0, Math.trunc(centre - support + 0.5));
    const count = Math.min(size, Math.trunc(centre + support + 0.5)) - begin;
    const found = Array.from({ length: count }, (_, k) => filter((k + begin - centre + 0.5) * (1 / wide)));
    const sum = found.reduce((total, value) => total + value, 0);
    starts[place] = begin;
    counts[place] = count;
    found.forEach((value, k) => {
      const share = (sum === 0 ? value : value / sum) * (1 << BITS);
      values[place * most + k] = Math.trunc(share < 0 ? share - 0.5 : share + 0.5);
    });
  }
  return { starts, counts, values, most };
}

function resizeToNearest(view, size, window) {
  const places = (whole, resized, from, to) => {
    const found = [];
    let at = (whole / resized) * 0.5;
    for (let place = 0; place < to; place++, at += whole / resized) found.push(Math.min(whole - 1, Math.trunc(at)));
    return found.slice(from);
  };
  const across = places(view.width, size[1], window[1], window[3]);
  const down = places(view.height, size[0], window[0], window[2]);
  const made = new Uint8ClampedArray(down.length * across.length * view.bands);
  let to = 0;
  for (const y of down)
    for (const x of across)
      for (let band = 0; band < view.bands; band++)
        made[to++] = view.data[view.offset + y * view.row + x * view.stride + band];
  return made;
}

/** cv2's INTER_AREA: averages where both sides shrink, interpolates otherwise. */
function resizeByArea(view, size) {
  const shrinks = view.height >= size[0] && view.width >= size[1];
  const parts = shrinks ? shares : mixed;
  const across = parts(view.width, size[1]);
  const down = parts(view.height, size[0]);
  const made = new Uint8ClampedArray(size[0] * size[1] * view.bands);
  let to = 0;
  for (const rows of down)
    for (const columns of across)
      for (let band = 0; band < view.bands; band++) {
        let sum = 0;
        for (const [y, tall] of rows)
          for (const [x, wide] of columns)
            sum += tall * wide * view.data[view.offset + y * view.row + x * view.stride + band];
        made[to++] = roundEven(sum);
      }
  return made;
}

/** For each resized pixel, the pixels that it covers and the share of each. */
function shares(whole, resized) {
  const scale = whole / resized;
  return Array.from({ length: resized }, (_, place) => {
    const [from, to] = [place * scale, Math.min(whole, (place + 1) * scale)];
    const found = [];
    for (let pixel = Math.floor(from); pixel < Math.min(whole, Math.ceil(to - 1e-9)); pixel++)
      found.push([pixel, (Math.min(to, pixel + 1) - Math.max(from, pixel)) / (to - from)]);
    return found;
  });
}

/** For each resized pixel, the two pixels between which it lies and the share of each. */
function mixed(whole, resized) {
  const scale = whole / resized;
  return Array.from({ length: resized }, (_, place) => {
    const pixel = Math.min(whole - 1, Math.floor(place * scale));
    const beyond = place + 1 - (pixel + 1) / scale;
    const share = beyond <= 0 || pixel === whole - 1 ? 0 : beyond - Math.floor(beyond);
    return share ? [[pixel, 1 - share], [pixel + 1, share]] : [[pixel, 1]]; // prettier-ignore
  });
}
