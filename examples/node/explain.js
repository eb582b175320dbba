#!/usr/bin/env node
// Explains a picture with a graph: prints the predictions; with --out writes the maps as pictures, and the answer as JSON.
import { access, mkdir, rename, rm, writeFile } from "node:fs/promises";
import { join, parse } from "node:path";
import { parseArgs } from "node:util";

import { encodePng, ExplainError, load, toAnswer } from "../browser/src/node.js";
import { colourTable } from "../../handler/page/colours.js";
import { blend, relief } from "../../handler/page/draw.js";

const USAGE = `usage: node examples/node/explain.js GRAPH PICTURE [--target heart,3] [--contrast second] [--maps gradcam]
       [--method layercam] [--layer conv5] [--top-k 5] [--out FOLDER [--overwrite]] [--json]`;
const TEXT = ["target", "contrast", "maps", "method", "layer", "top-k", "out"];

const mistake = (message) => new ExplainError(400, "BadRequest", message);

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      ...Object.fromEntries(TEXT.map((name) => [name, { type: "string" }])),
      ...Object.fromEntries(["json", "overwrite", "help"].map((name) => [name, { type: "boolean" }])),
    },
  });
  if (values.help) return console.log(USAGE);
  if (positionals.length !== 2) throw mistake(`a graph and a picture are needed\n${USAGE}`);
  const [graph, picture] = positionals;
  const { json, out, overwrite, help: _, "top-k": top_k, ...options } = values;
  const model = await load(graph);
  const result = await model.explain(picture, { ...options, ...(top_k ? { top_k: Number(top_k) } : {}) });
  const answer = JSON.stringify(toAnswer(result));
  if (out) {
    const stem = join(out, parse(picture).name);
    const files = { [`${stem}.json`]: answer };
    for (const { target, against, maps } of result.explanations)
      for (const [name, map] of Object.entries(maps))
        files[`${stem}.${against ? "-" : ""}${target.index}.${name}.png`] = await encodePng(drawn(map, result.seen));
    await writeAll(files, overwrite);
  }
  if (json) return console.log(answer);
  for (const { label, probability } of result.predictions) console.log(`${probability.toFixed(3).padStart(8)}  ${label}`);
}

/** A map as a picture: evidence laid on what the network saw, gradients in relief on grey. */
function drawn({ values, shape }, { data, channels }) {
  const [height, width, bands = 1] = shape;
  const pixels = new Uint8ClampedArray(height * width * 4).fill(255);
  for (let place = 0; place < height * width; place += 1)
    for (let band = 0; band < 3; band += 1)
      pixels[place * 4 + band] = data[place * channels + (channels > 2 ? band : 0)];
  if (bands === 1 && shape.length === 2) blend(pixels, values, { weight: 0.5, threshold: 0, table: colourTable("viridis") });
  else relief(pixels, values, bands, { height, width, channels: bands, data: values });
  return { data: pixels, width, height, channels: 4 };
}

/** Writes all files or none, none of them over another without leave. */
async function writeAll(files, overwrite) {
  for (const path of overwrite ? [] : Object.keys(files))
    if (await access(path).then(() => true, () => false))
      throw mistake(`${path} is there already; give another folder with --out, or say --overwrite`);
  await mkdir(parse(Object.keys(files)[0]).dir, { recursive: true });
  try {
    for (const [path, content] of Object.entries(files)) await writeFile(`${path}.part`, content);
    for (const path of Object.keys(files)) await rename(`${path}.part`, path);
  } finally {
    for (const path of Object.keys(files)) await rm(`${path}.part`, { force: true });
  }
}

main().catch((error) => {
  const known = error instanceof ExplainError || error.syscall || String(error.code).startsWith("ERR_PARSE_ARGS");
  console.error(known ? `error: ${error.message}` : error);
  process.exitCode = known ? 2 : 1;
});
