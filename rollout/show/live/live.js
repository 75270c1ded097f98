// The page: what the session says, what the keys and buttons ask.

import { Link } from "./link.js";
import { Pane } from "./pane.js";

const get = (id) => document.getElementById(id);
const panes = new Map();
const sent = new Map(); // prompt -> when it was asked for
const past = [];
let state = null, lines = null, place = 0;

get("motion").checked = !matchMedia("(prefers-reduced-motion: reduce)").matches;

const link = new Link({
  text(message) {
    if (message.type === "state") show(message);
    else if (message.type === "block") panes.get(message.pane)?.heads.set(message.block, message);
    else if (message.type === "error") trouble(message.text);
  },
  frame: (frame) => panes.get(frame.pane)?.push(frame),
  state(now) {
    get("link").dataset.state = now;
    get("link").querySelector("span").textContent = now === "on" ? "connected" : "connecting";
    document.body.classList.toggle("away", now !== "on");
  },
});

function ask(order) {
  trouble("");
  if (!link.send(order)) trouble("not connected; nothing was sent");
}

function target() {
  const value = document.querySelector("#target input:checked")?.value ?? "";
  return value === "" ? null : Number(value);
}

const aimed = () => state.panes.filter((pane) => target() === null || pane.pane === target());

function show(told) {
  state = told;
  const there = new Set(told.panes.map((pane) => pane.pane));
  let gone = false; // with the focus in it, perhaps
  for (const [number, pane] of panes) if (!there.has(number)) {
    gone ||= pane.root.contains(document.activeElement);
    pane.remove();
    panes.delete(number);
  }
  for (const each of told.panes) {
    if (!panes.has(each.pane)) panes.set(each.pane, new Pane(each.pane, {
      send: ask, motion: () => get("motion").checked, said,
      sent: (text) => sent.has(text) ? Math.round(performance.now() - sent.get(text)) : undefined,
    }));
    panes.get(each.pane).tell(each, told.presets, told.panes.length < told.most, told.panes.length === 1);
  }
  const wanted = told.panes.map((pane) => panes.get(pane.pane).root);
  wanted.forEach((root, i) => get("panes").children[i] === root || get("panes").insertBefore(root, get("panes").children[i] ?? null));
  if (document.activeElement === document.body && gone) get("prompt").focus();
  get("panes").dataset.count = told.panes.length;
  targets(told.panes);
  buttons();
  log(told.log);
  get("vocabulary").hidden = !told.vocabulary;
  get("words").textContent = told.vocabulary;
}

function targets(all) {
  const field = get("target"), now = target();
  const values = ["", ...all.map((pane) => String(pane.pane))];
  if ([...field.querySelectorAll("input")].map((input) => input.value).join() === values.join()) return;
  const focused = field.contains(document.activeElement);
  const made = values.map((value) => {
    const label = document.createElement("label"), input = document.createElement("input");
    Object.assign(input, { type: "radio", name: "target", value, checked: value === String(now ?? "") });
    label.append(input, value || "all");
    return label;
  });
  field.replaceChildren(field.querySelector("legend"), ...made);
  const on = field.querySelector("input:checked") ?? field.querySelector("input");
  on.checked = true;
  if (focused) on.focus();
}

function buttons() {
  const some = aimed();
  get("pause").textContent = some.length && some.every((pane) => pane.paused) ? "Go on" : "Pause";
  for (const button of document.querySelectorAll("[data-speed]"))
    button.setAttribute("aria-pressed", some.length > 0 && some.every((pane) => pane.speed === Number(button.dataset.speed)));
}

function log(all) {
  const fresh = lines === null ? [] : all.filter((line) => line.line > lines);
  if (lines !== null && !fresh.length && all.at(-1)?.line === lines) return;
  const words = (line) => `${line.panes.length ? `pane ${line.panes.join(", ")}` : "all"}: ${line.text}`;
  get("log").replaceChildren(...[...all].reverse().map((line) => {
    const item = document.createElement("li"), block = document.createElement("span");
    block.textContent = `block ${line.block}`;
    item.append(block, words(line));
    return item;
  }));
  if (fresh.length) said(fresh.map(words).join(". "));
  lines = all.at(-1)?.line ?? 0;
}

function said(text) { get("said").textContent = text; }

function trouble(text) {
  get("trouble").textContent = text;
  get("trouble").hidden = !text;
}

get("say").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = get("prompt").value.trim().replace(/\s+/g, " ");
  if (!text) return;
  sent.clear();
  sent.set(text, performance.now());
  if (past.at(-1) !== text) past.push(text);
  place = past.length;
  ask({ do: "prompt", pane: target(), text });
  get("prompt").select();
});

get("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Escape") return event.target.blur();
  const move = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (!move || !past.length) return;
  event.preventDefault();
  place = Math.max(0, Math.min(past.length - 1, place + move));
  event.target.value = past[place];
});

const pause = () => ask({ do: "pause", pane: target(), on: !aimed().every((pane) => pane.paused) });
get("pause").addEventListener("click", pause);
get("target").addEventListener("change", buttons);
for (const button of document.querySelectorAll("[data-do]"))
  button.addEventListener("click", () => ask({ do: button.dataset.do, pane: target() }));
for (const button of document.querySelectorAll("[data-speed]"))
  button.addEventListener("click", () => ask({ do: "speed", pane: target(), value: Number(button.dataset.speed) }));

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !get("single").checked || !state) return;
  if (event.target.closest?.("input[type=text], select, textarea")) return;
  const simple = { c: "cut", f: "flush", r: "recache", s: "save" }[event.key];
  if (simple && !event.repeat) ask({ do: simple, pane: target() });
  else if (event.key === "p" && !event.repeat) pause();
  else if (event.key === "/") get("prompt").focus();
  else if (/^[0-4]$/.test(event.key)) {
    const radio = document.querySelector(`#target input[value="${event.key === "0" ? "" : event.key}"]`);
    if (!radio) return;
    radio.checked = true;
    buttons();
  } else return;
  event.preventDefault();
});

function tick(now) {
  for (const pane of panes.values()) pane.play(now);
  requestAnimationFrame(tick);
}
requestAnimationFrame(tick);
