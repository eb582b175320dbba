// Where the composed page begins: reads its content, asks for a token where one is needed, and starts.

import { card, el, field } from "./dom.js";
import { Failure, sentence } from "./failure.js";
import { start } from "./main.js";
import { serverAsking } from "./server.js";

const page = document.getElementById("page");
begin(contentOf(document));

function contentOf(from) {
  return JSON.parse(from.getElementById("content").textContent);
}

function begin(content, token = "") {
  if (content.locked) askForToken(token ? "This token is wrong." : "");
  else start(page, content, serverAsking(content.card.name, token));
}

/** The server tells nothing of its models without its token, which the page keeps in memory alone. */
function askForToken(problem) {
  const input = el("input", { type: "password", id: "token", autocomplete: "off", required: true });
  const told = el("p", { class: "problem", role: "alert" }, problem);
  const open = async (event) => {
    event.preventDefault();
    opener.disabled = true; // a page that begins twice would ask everything twice
    try {
      begin(await unlocked(input.value.trim()), input.value.trim());
    } catch (error) {
      told.textContent = sentence(error.message);
      opener.disabled = false;
    }
  };
  const opener = el("button", { type: "submit", class: "primary" }, "Open");
  const form = el("form", { class: "row", onsubmit: open }, field("Token", input), opener);
  const about = el(
    "p",
    { class: "muted" },
    "The page keeps the token until it is closed, and sends it to this server alone.",
  );
  const opening = card("This server asks for a token", { class: "card narrow" }, form, told, about);
  page.replaceChildren(el("h1", { class: "visually-hidden" }, "What the model sees, and why"), opening);
  input.focus();
}

async function unlocked(token) {
  if (/[^\x21-\x7e]/.test(token)) throw new Failure("This token is wrong: no token has such letters");
  let answer;
  try {
    answer = await fetch(location.href.replace(/#.*$/, ""), {
      headers: { Accept: "text/html", Authorization: `Bearer ${token}` },
    });
  } catch {
    throw new Failure("The server did not answer; try again in a moment");
  }
  const found = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (!found.getElementById("content"))
    throw new Failure(`The server answered with ${answer.status}, which is no page`);
  return contentOf(found);
}
