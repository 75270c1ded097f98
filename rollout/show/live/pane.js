// One pane: plays its frames at their pace, and draws what its cache holds.

const SVG = "http://www.w3.org/2000/svg";
const AHEAD = 2; // blocks that wait to be seen; more come only while the tab is hidden

export class Pane {
  constructor(number, { send, motion, said, sent }) {
    Object.assign(this, { number, send, motion, said, sent, queue: [], heads: new Map(), at: 0, block: -1, order: Promise.resolve() });
    this.root = document.getElementById("pane").content.firstElementChild.cloneNode(true);
    const find = (name) => this.root.querySelector(name);
    Object.assign(this, {
      canvas: find("canvas"), veil: find(".veil"), shown: find("q"), obeyed: find(".obeyed"), cache: find(".cache"),
      clock: find(".clock"), pace: find(".pace"), name: find(".name"), select: find("select"), halt: find(".halt"), close: find(".close"), fork: find(".fork"),
    });
    this.root.dataset.pane = number;
    this.root.setAttribute("aria-label", `Pane ${number}`);
    find(".number").textContent = number;
    this.select.setAttribute("aria-label", `Strategy for pane ${number}, or for a fork of it`);
    const act = (name, order) => find(name).addEventListener("click", () => { const o = order(); if (o) send({ pane: number, ...o }); });
    act(".use", () => this.chosen() && { do: "use", strategy: this.chosen() });
    act(".fork", () => this.chosen() && { do: "fork", strategy: this.select.value === this.told.strategy ? null : this.chosen() });
    act(".halt", () => ({ do: "pause", on: !this.told.paused }));
    act(".close", () => confirm(`Close pane ${number}? What was not saved of it is gone.`) && { do: "close" });
    for (const [name, does] of [[".use", "Use this strategy in"], [".fork", "Fork"], [".close", "Close"]]) {
      find(name).setAttribute("aria-label", `${does} pane ${number}`);
      find(name).title = { ".use": "go on under this strategy", ".fork": "a new pane from here, under this strategy", ".close": "close" }[name];
    }
    this.size = new ResizeObserver(() => this.head && this.draw(this.head));
    this.size.observe(this.cache);
  }

  chosen() {
    if (this.select.value !== "other") return this.select.value;
    return prompt("A strategy as POSITIONS POLICY+SWITCH", this.told.strategy);
  }

  tell(told, presets, room, alone) {
    const before = this.told;
    this.told = told;
    this.name.textContent = told.name;
    this.name.title = `${told.strategy}${told.origin ? `; forked from ${told.origin}` : ""}`;
    if (!before || before.strategy !== told.strategy) this.options(told, presets);
    this.halt.textContent = told.paused ? "Go on" : "Pause";
    this.halt.setAttribute("aria-label", `${this.halt.textContent} pane ${this.number}`);
    this.fork.disabled = !room;
    this.close.disabled = alone;
    const next = told.pending.length ? `next: ${told.pending.join(", ")}` : "";
    this.veil.textContent = told.stopped || (told.paused ? ["paused", next].filter(Boolean).join(" · ") : "");
    this.veil.hidden = !this.veil.textContent;
    this.root.classList.toggle("stopped", Boolean(told.stopped));
  }

  options(told, presets) {
    const own = Object.values(presets).includes(told.strategy) ? [] : [[told.strategy, told.strategy]];
    const all = [...own, ...Object.entries(presets), ["other…", "other"]];
    this.select.replaceChildren(...all.map(([name, value]) => new Option(name, value)));
    this.select.value = told.strategy;
  }

  push(frame) { // pictures decode in the background, in order
    this.order = this.order.then(() => createImageBitmap(frame.picture)).then((bitmap) => {
      this.queue.push({ ...frame, bitmap });
      while (this.queue.at(-1).block - this.queue[0].block >= AHEAD) this.queue.shift().bitmap.close();
    }).catch(() => {}); // one picture less
  }

  play(now) {
    if (!this.queue.length || now < this.at) return;
    const frame = this.queue.shift();
    this.at = Math.max(this.at + frame.each, now + frame.each / 2);
    if (frame.block !== this.block) this.begin(frame);
    if (this.motion() || frame.nth === 0) this.paint(frame.bitmap);
    frame.bitmap.close();
    this.root.dataset.frame = frame.frame;
  }

  paint(bitmap) {
    const { canvas } = this;
    if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
      Object.assign(canvas, { width: bitmap.width, height: bitmap.height });
      canvas.classList.toggle("small", bitmap.width <= 128);
    }
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
  }

  begin(frame) {
    this.block = frame.block;
    const head = this.heads.get(frame.block);
    for (const block of this.heads.keys()) if (block <= frame.block) this.heads.delete(block);
    if (!head) return;
    this.head = head;
    if (this.shown.textContent !== head.prompt) {
      this.shown.textContent = head.prompt;
      this.root.dataset.latency = this.sent(head.prompt) ?? "";
    }
    this.canvas.setAttribute("aria-label", `Pane ${this.number} shows: ${head.prompt}`);
    this.clock.textContent = `${head.seconds.toFixed(1)} s`;
    this.hurry(head.pace);
    const happens = [...(head.switch ? ["new prompt"] : []), ...(head.cut ? ["cut"] : []), ...head.events.filter((e) => e === "switch" || e === "strategy")];
    if (happens.length) this.flash(happens);
    this.badge(head.badge);
    this.draw(head);
    this.root.dataset.block = head.block;
  }

  hurry(pace) { // how fast it really goes, where that is slower than life or than was asked for
    const slow = pace !== null && pace < 0.95 * (this.told.speed ? Math.min(1, this.told.speed) : 1);
    this.pace.textContent = slow ? `${pace.toFixed(pace < 0.1 ? 2 : 1)}×` : "";
    this.pace.title = slow ? "slower than life: the machine makes so much video a second" : "";
    this.pace.hidden = !slow;
  }

  flash(happens) {
    this.root.dataset.event = happens.includes("cut") ? "cut" : "switch";
    setTimeout(() => delete this.root.dataset.event, 900);
  }

  badge(told) {
    const state = told?.state ?? "", missing = (told?.missing ?? []).join(", ");
    const text = {
      obeyed: () => `obeyed after ${told.frames} ${told.frames === 1 ? "frame" : "frames"}`,
      never: () => `not obeyed within ${told.frames} frames: ${missing}`,
      waiting: () => `looking${missing ? ` for ${missing}` : ""}… ${told.frames} frames`,
      lost: () => "its subject is lost",
    }[state]?.() ?? "";
    if (state !== "waiting" && text && text !== this.obeyed.textContent) this.said(`pane ${this.number}: ${text}`);
    this.obeyed.textContent = text;
    this.obeyed.dataset.state = state;
  }

  draw(head) { // every slot at its temporal index, the block at the query end
    const svg = this.cache, width = svg.clientWidth;
    if (!width) return;
    const end = Math.max(...head.at), top = Math.max(head.trained - 1, end, ...head.slots.map((s) => s[2]));
    const step = width / (top + 1), mark = Math.max(3, step - 1.5);
    const x = (index) => Math.min(index * step, width - mark);
    const made = [];
    const put = (name, attributes, text) => {
      const node = document.createElementNS(SVG, name);
      for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
      if (text !== undefined) node.textContent = text;
      made.push(node);
    };
    const from = Math.max(0, end - head.trained + 1);
    put("rect", { class: "band", x: x(from), y: 4, width: (end - from + 1) * step, height: 24, rx: 2 });
    const crowd = new Map();
    const tile = (role, frame, index) => {
      const n = crowd.get(index) ?? 0; // several frames at one index are stacked
      crowd.set(index, n + 1);
      put("rect", { class: role, x: x(index), y: 7 + 4 * n, width: mark, height: 18 - 4 * n, rx: 2 });
      if (step >= 13 && n === 0) put("text", { class: `on ${role}`, x: x(index) + mark / 2, y: 20, "text-anchor": "middle" }, frame % 1000);
    };
    for (const [role, frame, index] of head.slots) tile(role, frame, index);
    head.at.forEach((index, n) => tile("block", head.start + n, index));
    put("text", { x: 0, y: 42 }, 0);
    put("text", { x: Math.max(x(end) + mark, 24), y: 42, "text-anchor": "end" }, end);
    svg.replaceChildren(...made);
    const roles = ["sink", "memory", "recent"].map((role) => [role, head.slots.filter((s) => s[0] === role)]).filter(([, some]) => some.length);
    const words = roles.map(([role, some]) => `${some.length} ${role} at ${some.map((s) => s[2]).join(", ")}`);
    svg.setAttribute("aria-label", `Cache of pane ${this.number}, temporal indices: ${[...words, `the block at ${head.at.join(", ")}`].join("; ")}`);
  }

  remove() {
    this.size.disconnect();
    this.root.remove();
  }
}
