// Colour maps, 256 entries of red, green and blue, within one level of OpenCV's.

// corners of matplotlib's maps, between which colours are interpolated: index, red, green, blue as hexadecimal pairs
const CORNERS = {
  viridis:
    "004401540d4814671e472a7a2a4439833a3e4c8a5132648e7d218e8d8d1e9d899922a884a22ab07fae3bbb75c160ca60c973d056d795d840" +
    "e9c5e021f0d8e219f6e7e419fbf4e61efffde725",
  cividis:
    "0000224e11002e6c16003171170132711c12357023203a6f3538476c56585e6d6e6d6f727d7a7a7898938e78afaaa073cbc7b767e0dec958" +
    "eae9d34ef6f7de3efbfde334fffee838",
};

/** What the maps are called, and for whom they are. */
export const COLOURS = {
  viridis: "viridis (for every kind of colour vision)",
  cividis: "cividis (for every kind of colour vision)",
  jet: "jet (misleads, and not for the colour-blind)",
};

const tables = {};

/** The colours of a map, a Uint8Array of 256 · 3. */
export function colourTable(name) {
  tables[name] ??= name === "jet" ? jet() : interpolated(CORNERS[name]);
  return tables[name];
}

function interpolated(corners) {
  const numbers = corners.match(/../g).map((pair) => parseInt(pair, 16));
  const table = new Uint8Array(768);
  for (let corner = 4; corner < numbers.length; corner += 4) {
    const [from, to] = [numbers[corner - 4], numbers[corner]];
    for (let index = from; index <= to; index += 1) {
      const share = (index - from) / (to - from);
      for (let band = 1; band <= 3; band += 1) {
        const [before, after] = [numbers[corner - 4 + band], numbers[corner + band]];
        table[3 * index + band - 1] = Math.round(before + share * (after - before));
      }
    }
  }
  return table;
}

function jet() {
  const table = new Uint8Array(768);
  for (let index = 0; index < 256; index += 1) {
    [3, 2, 1].forEach((centre, band) => {
      const level = 1.5 - Math.abs((4 * index) / 255 - centre);
      table[3 * index + band] = Math.round(255 * Math.min(1, Math.max(0, level)));
    });
  }
  return table;
}
