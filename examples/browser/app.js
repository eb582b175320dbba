// The model's page with the graph in the place of the server: the visitor chooses a graph, and the page asks it.

import { button, card, el, field } from "../../handler/page/dom.js";
import { Failure, sentence } from "../../handler/page/failure.js";
import { start } from "../../handler/page/main.js";
import { load, toAnswer } from "./src/browser.js";

const root = document.getElementById("page");

/** The question that the page puts to a model, answered by its graph. */
const askingOf = (model) => async ({ model: _, trust, encoding, ...options }, picture, signal) => {
  if (trust) throw new Failure("trust asks the network about many changed pictures, which the server does", 422);
  try {
    return toAnswer(await model.explain(picture.blob, { ...options, signal }), encoding);
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    throw new Failure(error.message, error.code);
  }
};

function chooser() {
  const status = el("p", { role: "status", id: "opening" });
  const device = el("select", { id: "device" }, ["auto", "wasm", "webgpu"].map((name) => el("option", {}, name)));
  const file = el("input", { type: "file", id: "graph", accept: ".onnx", onchange: open });
  const text = "A graph that make explanation has written, such as model_store/shufflenet_cam.explain.onnx. Neither it nor a picture leaves this machine.";
  root.replaceChildren(
    el("header", { class: "head" }, el("h1", {}, "What the model sees, without a server")),
    card(
      "Choose a graph",
      {},
      el("p", {}, text),
      field("Graph", file),
      field("Computed by", device),
      status,
    ),
  );

  async function open() {
    if (!file.files.length) return;
    status.textContent = "Opening the graph…";
    try {
      const ort = (name) => import(`./node_modules/onnxruntime-web/dist/ort.${name}.bundle.min.mjs`).catch((error) => {
        throw new Failure(`ONNX Runtime is missing; run npm install in examples/browser (${error.message})`);
      });
      const model = await load(file.files[0], { device: device.value, ort });
      const titles = Object.fromEntries(Object.keys(model.card.methods).map((name) => [name, { title: name, passes: 0, ofClass: name !== "rollout" }]));
      const computed = el("p", { class: "muted", id: "device-notice" }, sentence(model.notice || `Computed in this browser by ${model.device}`));
      const page = el("div");
      root.replaceChildren(el("div", { class: "row" }, button("Another graph", () => location.reload(), { class: "quiet" }), computed), page);
      start(page, { card: model.card, methods: titles }, askingOf(model));
    } catch (error) {
      status.textContent = sentence(error.message);
    }
  }
}

chooser();
