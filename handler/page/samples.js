// Draws sample pictures, so that every archive has some: shapes in a scene, the same at every visit.

/** The samples by name: what the button says, and the shapes. */
export const SAMPLES = {
  one: { title: "one shape", shapes: [["star", 0.5, 0.48, 0.42, "#f2c230"]] },
  two: {
    title: "two shapes",
    shapes: [
      ["heart", 0.28, 0.3, 0.36, "#d8324f"],
      ["arrow", 0.7, 0.72, 0.4, "#2a7de1"],
    ],
  },
  busy: {
    title: "a busy scene",
    shapes: [
      ["ring", 0.63, 0.4, 0.4, "#0c8f6a"],
      ["triangle", 0.24, 0.74, 0.26, "#e8702a"],
    ],
  },
};

const SIDE = 480; // pixels

const OUTLINES = {
  star: (corner) => round(10, (step) => (step % 2 ? 0.2 : 0.5), corner),
  triangle: (corner) => round(3, () => 0.5, corner),
  ring(corner) {
    round(64, () => 0.5, corner);
    round(64, () => 0.28, corner, -1);
  },
  heart(corner) {
    for (let step = 0; step < 64; step += 1) {
      const t = (2 * Math.PI * step) / 63;
      const down = -(13 * Math.cos(t) - 5 * Math.cos(2 * t) - 2 * Math.cos(3 * t) - Math.cos(4 * t)) - 2.5;
      corner((16 * Math.sin(t) ** 3) / 34, down / 34, step === 0);
    }
  },
  arrow(corner) {
    const corners = [[-0.5, -0.11], [0.05, -0.11], [0.05, -0.35], [0.5, 0], [0.05, 0.35], [0.05, 0.11], [-0.5, 0.11]];
    corners.forEach(([x, y], step) => corner(x, y, step === 0));
  },
};

/** The corners of a regular figure, by their distance from the middle. */
function round(count, radius, corner, sense = 1) {
  for (let step = 0; step < count; step += 1) {
    const angle = sense * ((2 * Math.PI * step) / count) - Math.PI / 2;
    corner(radius(step) * Math.cos(angle), radius(step) * Math.sin(angle), step === 0);
  }
}

/** A sample as a PNG file. */
export function drawSample(name) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [SIDE, SIDE];
  const context = canvas.getContext("2d");
  const chance = randomNumbers(name.length * 7919 + name.charCodeAt(0));
  drawScene(context, chance, name === "busy" ? 22 : 9);
  for (const [shape, x, y, size, colour] of SAMPLES[name].shapes) {
    context.fillStyle = colour;
    context.beginPath();
    OUTLINES[shape]((across, down, first) => {
      const point = [(x + size * across) * SIDE, (y + size * down) * SIDE];
      if (first) context.moveTo(...point);
      else context.lineTo(...point);
    });
    context.fill("evenodd");
  }
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

function drawScene(context, chance, things) {
  const ground = context.createLinearGradient(0, 0, SIDE, SIDE);
  ground.addColorStop(0, "#7f8c9d");
  ground.addColorStop(1, "#b9ad96");
  context.fillStyle = ground;
  context.fillRect(0, 0, SIDE, SIDE);
  for (let thing = 0; thing < things; thing += 1) {
    context.strokeStyle = context.fillStyle = `hsl(${360 * chance()} 35% ${30 + 45 * chance()}%)`;
    const [x, y] = [chance() * SIDE, chance() * SIDE];
    context.beginPath();
    if (thing % 2) {
      context.ellipse(x, y, 4 + 10 * chance(), 4 + 10 * chance(), 3 * chance(), 0, 2 * Math.PI);
      context.fill();
    } else {
      context.lineWidth = 1 + 4 * chance();
      context.moveTo(x, y);
      context.lineTo(x + (chance() - 0.5) * SIDE, y + (chance() - 0.5) * SIDE);
      context.stroke();
    }
  }
}

/** Numbers in [0, 1) that are the same for the same seed (mulberry32). */
function randomNumbers(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}
