// The controls: what is asked for, and how figures are shown.

import { COLOURS } from "./colours.js";
import { button, card, el, field } from "./dom.js";
import { DETAILS } from "./meaning.js";
import { detailsOf } from "./options.js";

/** How figures are shown: weight, threshold and colours in `display`, which change before `changed(name)` is called. */
export function displayControls(display, changed) {
  const slider = (name, text) => {
    const value = el("output", {}, String(display[name]));
    const input = el("input", {
      type: "range",
      min: 0,
      max: 1,
      step: 0.05,
      value: display[name],
      id: name,
      oninput: () => {
        display[name] = Number(input.value);
        value.textContent = input.value;
        changed(name);
      },
    });
    return field(text, input, value);
  };
  const colours = el(
    "select",
    {
      id: "colours",
      onchange: () => {
        display.colours = colours.value;
        changed("colours");
      },
    },
    Object.entries(COLOURS).map(([name, text]) =>
      el("option", { value: name, selected: name === display.colours }, text),
    ),
  );
  return el(
    "div",
    { class: "display", role: "group", "aria-label": "How maps are shown" },
    slider("weight", "Weight of the picture"),
    slider("threshold", "Hide values below"),
    field("Colours", colours),
  );
}

/** What is asked for; `options` change before `changed(name)` is called. Only a server has trust and receipts. */
export function askControls(model, methods, options, changed, served) {
  const check = (list, name, text, hint = "") =>
    el(
      "label",
      { class: "check", title: hint },
      el("input", {
        type: "checkbox",
        name: list,
        value: name,
        checked: options[list].includes(name),
        onchange: ({ target }) => {
          options[list] = target.checked ? [...options[list], name] : options[list].filter((one) => one !== name);
          changed(list);
        },
      }),
      text,
    );
  const flag = (name, text) =>
    el(
      "label",
      { class: "check" },
      el("input", {
        type: "checkbox",
        id: name,
        checked: options[name],
        onchange: ({ target }) => {
          options[name] = target.checked;
          changed(name);
        },
      }),
      text,
    );
  const layers = el(
    "select",
    {
      id: "layer",
      onchange: () => {
        options.layer = layers.value;
        changed("layer");
      },
    },
    el("option", { value: "auto" }, `auto (${model.layer})`),
    Object.entries(model.layers ?? {}).map(([path, shape]) =>
      el(
        "option",
        { value: path, selected: path === options.layer },
        shape ? `${path} (${shape[1]} × ${shape[2]} cells)` : path,
      ),
    ),
  );
  const known = Object.entries(model.methods ?? {}).map(([name, summary]) => {
    const { title = name, passes = 0 } = methods[name] ?? {};
    return check("method", name, `${title}${passes ? ` (${passes} passes)` : ""}`, summary);
  });
  const patience = el("input", {
    type: "number",
    id: "timeout",
    min: 1,
    max: 3600,
    value: options.timeout,
    onchange: () => {
      options.timeout = Math.min(3600, Math.max(1, Number(patience.value) || 120));
      patience.value = options.timeout;
      changed("timeout");
    },
  });
  const details = detailsOf(model);
  return card(
    "What to show",
    { id: "asking" },
    model.maps?.includes("gradcam") === false
      ? null
      : el(
          "details",
          { open: options.method.length > 1 },
          el("summary", {}, "Methods for the map at the layer, side by side"),
          el("fieldset", { class: "checks" }, el("legend", { class: "visually-hidden" }, "Methods"), known),
        ),
    details.length
      ? el(
          "fieldset",
          { class: "checks" },
          el("legend", {}, "Details"),
          details.map((name) => check("maps", name, DETAILS[name]?.title ?? name)),
        )
      : null,
    el(
      "fieldset",
      { class: "checks" },
      el("legend", {}, "Also"),
      flag("against", "what speaks against the class"),
      served ? flag("trust", "trust: test the maps with the network's answers (28 passes each)") : null,
      served ? flag("receipt", "receipt") : null,
    ),
    el("div", { class: "row" }, field("Layer", layers), field("Give up after (s)", patience)),
  );
}

/**
 * Progress with elapsed seconds and a button that cancels. `begin(cancel)` shows it, and gives `say(what, share)` and
 * `end()`.
 *
 * Screen readers are told what is waited for, but not each second.
 */
export function progress() {
  const bar = el("progress", { "aria-label": "Waiting for the answer" });
  const text = el("span", {});
  let stop = null;
  const box = el("div", { class: "progress", hidden: true }, bar, text, button("Cancel", () => stop?.()));
  const told = el("p", { class: "visually-hidden", role: "status" });
  return {
    element: el("div", {}, box, told),
    begin(cancel) {
      const started = performance.now();
      let said = "";
      const tell = () => (text.textContent = `${said}: ${((performance.now() - started) / 1000).toFixed(0)} s`);
      const clock = setInterval(tell, 250);
      const mine = () => cancel();
      stop = mine;
      box.hidden = false;
      return {
        say(what, share) {
          said = told.textContent = what;
          if (share === undefined) bar.removeAttribute("value");
          else bar.value = share;
          tell();
        },
        end() {
          clearInterval(clock);
          if (stop !== mine) return;
          box.hidden = true;
          told.textContent = "";
        },
      };
    },
  };
}
