"use strict";
// One block as a picture: the film's frames on a strip, the model's temporal axis as a ruler, and what lies where.
const svg = (tag, attributes, ...inside) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, typeof value === "number" ? +value.toFixed(2) : value);
  element.append(...inside);
  return element;
};

//# if refined
// What a frame's block read when it was written to the cache.
const Written = (data, number, at, frame) => {
  const steps = data.sides[number].steps, block = Math.floor(frame / data.size);
  for (let b = at; b > block; b -= 1) if (steps[b].again && steps[b].again.includes(frame)) return `encoded again at block ${b}`;
  return `written with block ${block}, which read ${steps[block].read || "itself alone"}`;
};

//# endif
const Ruler = (data, stage) => {
  const ROLES = ["sink", "memory", "recent", "block"], LEAST = 13, TIGHT = 10, WIDEST = 46, TEAR = 1.5;
  const STRIP = 14, FAN = 84, TILE = 34, TICKS = 32, BETWEEN = 36;
  const two = data.sides.length > 1, total = data.blocks.length * data.size;
  const remembers = data.sides.some((side) => side.steps.some((step) => step.mix));
  const WEIGHTS = remembers ? 30 : 6, PANEL = WEIGHTS + STRIP + FAN + TILE + TICKS;
  // One strategy lies on its indices; two lie on the distance from their newest query, which is all that rotary attention sees.
  const spot = (step, index) => (two ? index - step.own.at(-1) : index);
//# if refined
  const all = (step) => [...step.own, ...(step.ahead || []), ...step.slots.map((slot) => slot[2])].map((index) => spot(step, index));
//# else
  const all = (step) => [...step.own, ...step.slots.map((slot) => slot[2])].map((index) => spot(step, index));
//# endif
  const [low, high] = data.sides.reduce((ends, side) => side.steps.reduce(([a, b], step) => [Math.min(a, ...all(step)), Math.max(b, ...all(step))], ends), two ? [1 - data.trained, 0] : [0, data.trained - 1]);

  // What a side's block sees: one entry a slot and own frame, with a name that stays from block to block.
  const seen = (number, at) => {
    const step = data.sides[number].steps[at], start = data.blocks[at][0], last = step.own.at(-1);
    let streams = 0;
    const all = step.slots.map(([role, frame, index]) => ({ role: ROLES[role], frame, index, key: role === 1 ? `m${streams++}` : `f${frame}` }));
    all.push(...step.own.map((index, i) => ({ role: "block", frame: start + i, index, key: `f${start + i}` })));
//# if refined
    all.push(...(step.ahead || []).map((index, i) => ({ role: "ahead", frame: start + data.size + i, index, key: `f${start + data.size + i}` })));
    for (const [n, date] of step.dates || []) Object.assign(all[n], { date }, all[n].role === "recent" ? { key: `c${date}` } : {});
    for (const n of step.picked || []) all[n].picked = true;
    for (const one of all) one.title = `${one.role} ${one.frame}${one.date === undefined ? "" : ` as ${one.date}`}${one.picked ? ": chosen tokens" : ""}`;
    for (const one of all) if (["sink", "recent"].includes(one.role)) one.title += `: ${Written(data, number, at, one.frame)}`;
//# endif
    const crowd = new Map();
    all.forEach((one, n) => {
      one.away = last - one.index;
      one.spot = spot(step, one.index);
      one.mark = step.marks ? step.marks[n] : "s";
      one.again = Boolean(step.again && one.role !== "memory" && one.role !== "block" && step.again.includes(one.frame));
      if (!crowd.has(one.index)) crowd.set(one.index, []);
      crowd.get(one.index).push(one);
    });
    for (const some of crowd.values()) some.forEach((one, n) => { one.row = n; one.rows = some.length; });
    const near = two ? [1 - data.trained, 0] : [Math.max(0, last - data.trained + 1), Math.max(last, data.trained - 1)];
    return { all, near, end: start + data.size };
  };

  // How much of each frame a memory stream holds, back to where it began: [[frame, weight], ...].
  const mix = (number, at, stream) => {
    let share = new Map([[stream, 1]]);
    const found = [];
    for (let b = at; b >= 0 && share.size; b -= 1) {
      const made = data.sides[number].steps[b].mix;
      if (!made) continue;
      const before = new Map();
      for (const [n, weight] of share) {
        for (const [frame, w] of made[n].new) found.push([frame, weight * w]);
        for (const [n2, w] of made[n].old) before.set(n2, (before.get(n2) || 0) + weight * w);
      }
      share = before;
    }
    const whole = new Map();
    for (const [frame, w] of found) whole.set(frame, (whole.get(frame) || 0) + w);
    return [...whole].sort((a, b) => a[0] - b[0]);
  };

  // Where the axis' cells lie: all of them, or with the empty stretches torn out where there is no room.
  const axis = (views, width) => {
    const range = (a, b) => Array.from({ length: Math.max(0, b - a + 1) }, (_, i) => a + i);
    const ordered = (some) => [...new Set(some)].sort((a, b) => a - b);
    const previous = (some, i) => (i ? some[i - 1] : two ? some[0] - 1 : -1);
    const torn = (some) => some.filter((cell, i) => cell !== previous(some, i) + 1).length;
    const full = (some) => some.length + torn(some) * TEAR; // in cells, the torn places counted in
    const used = ordered(views.flatMap((view) => view.all.map((one) => one.spot)));
    let cells = range(low, high);
    if (full(cells) * LEAST > width) cells = ordered([...used, ...views.flatMap((view) => range(...view.near))]);
    if (full(cells) * LEAST > width) cells = used;
    const before = (i) => previous(cells, i);
    const wide = Math.max(TIGHT, Math.min(WIDEST, width / full(cells)));
    const left = new Map(), tears = [];
    let x = 0;
    cells.forEach((cell, i) => {
      const skips = cell - before(i) - 1;
      if (skips) {
        tears.push({ x: x + (TEAR * wide) / 2, skips });
        x += TEAR * wide;
      }
      left.set(cell, x);
      x += wide;
    });
    return { cells, left, wide, tears, end: x };
  };

  let shown = null, turn = 0;
  const calm = matchMedia("(prefers-reduced-motion: reduce)");

  const paint = (at, part) => {
    const gutter = stage.clientWidth > 640 ? 76 : 0;
    const views = data.sides.map((_, n) => seen(n, at)), room = stage.clientWidth - gutter - 2;
    const ax = axis(views, room), width = Math.max(room, ax.end), height = two ? 2 * PANEL + BETWEEN : PANEL;
    const places = new Map(), root = svg("svg", { width: width + gutter + 2, height, viewBox: `${-gutter - 1} 0 ${width + gutter + 2} ${height}`, "aria-hidden": "true" });
    views.forEach((view, n) => view.all.forEach((one) => {
      const to = ax.left.get(one.spot), from = part < 1 && shown ? shown.get(`${n}${one.key}`) : undefined;
      one.x = from === undefined ? to : from + (to - from) * part;
      places.set(`${n}${one.key}`, one.x);
    }));
    if (two) links(root, views, ax);
    views.forEach((view, n) => panel(root, view, n, at, ax, width, gutter));
    stage.replaceChildren(root);
    return places;
  };

  const links = (root, [a, b], ax) => {
    const of = new Map(b.all.map((one) => [one.key, one]));
    for (const one of a.all) {
      const other = of.get(one.key);
      if (other && (one.role === "memory") === (other.role === "memory")) {
        root.append(svg("line", { class: `link ${one.mark}`, x1: one.x + ax.wide / 2, x2: other.x + ax.wide / 2, y1: PANEL - 1, y2: PANEL + BETWEEN + 1 }));
      }
    }
  };

  const panel = (root, view, n, at, ax, width, gutter) => {
    const y = (v, tall = 0) => (n === 0 ? v : 2 * PANEL + BETWEEN - v - tall), px = width / total;
    const box = (v, tall) => ({ y: y(v, tall), height: tall });
    const top = WEIGHTS + STRIP + FAN, under = top + TILE, half = ax.wide / 2;
    const name = (v, text) => { if (gutter) root.append(svg("text", { x: -gutter, y: y(v) + 4, "font-size": 11 }, text)); };
    // the strip: all frames of the film, those made so far, the prompts' edges
    name(WEIGHTS + STRIP / 2, "frames");
    root.append(svg("rect", { class: "past", x: 0, width: view.end * px, ...box(WEIGHTS + 4, STRIP - 8) }), svg("rect", { class: "rest", x: 0, width, ...box(WEIGHTS + 4, STRIP - 8) }));
    for (const [start, , change, cut] of data.blocks) {
      if ((change || cut) && start) root.append(svg("line", { class: `rule ${cut ? "cut" : "switch"}`, x1: start * px, x2: start * px, y1: y(WEIGHTS - 3), y2: y(WEIGHTS + STRIP + 3) }));
    }
    // the trained horizon, back from the newest query
    const inside = ax.cells.filter((cell) => cell >= view.near[0] && cell <= view.near[1]);
    root.append(svg("rect", { class: "band", x: ax.left.get(inside[0]), width: ax.left.get(inside.at(-1)) + ax.wide - ax.left.get(inside[0]), ...box(top - 4, TILE + 8) }));
    memory(root, view, n, at, ax, px, y);
    for (const one of view.all) {
      if (one.role === "memory") continue;
      const x = (one.frame + 0.5) * px, dot = Math.max(2, px * 0.84);
      root.append(svg("rect", { class: one.role, x: x - dot / 2, width: dot, ...box(WEIGHTS, STRIP) }));
      root.append(svg("path", { class: `line ${one.role}`, d: `M${x.toFixed(1)} ${y(WEIGHTS + STRIP)}C${x.toFixed(1)} ${y(top - FAN / 2)} ${(one.x + half).toFixed(1)} ${y(top - FAN / 2)} ${(one.x + half).toFixed(1)} ${y(top)}` }));
    }
    for (const one of view.all) tile(root, one, n, ax, y(top + (TILE * one.row) / one.rows, TILE / one.rows), TILE / one.rows);
    // the axis: index, then distance from the newest query
    const here = new Map(view.all.map((one) => [one.spot, one])), size = ax.wide < 18 ? 7.5 : ax.wide < 30 ? 8.5 : 10.5;
    const number = (v, cell, value, sign, more) => {
      const text = value ? `${sign}${value}` : "0";
      if (value % 5 && text.length * size * 0.62 > ax.wide - 2) return; // no room for each
      root.append(svg("text", { x: ax.left.get(cell) + half, y: y(v) + 5, "text-anchor": "middle", "font-size": size, ...more }, text));
    };
    for (const cell of ax.cells) {
      const one = here.get(cell);
//# if refined
      if (one) number(under + 23, cell, Math.abs(one.away), one.away < 0 ? "+" : "−", { "font-weight": one.away >= data.trained ? 700 : 400 });
//# else
      if (one) number(under + 23, cell, one.away, "−", { "font-weight": one.away >= data.trained ? 700 : 400 });
//# endif
      if (one || !two) number(under + 8, cell, one ? one.index : cell, "", { opacity: one ? 1 : 0.55 });
    }
    for (const { x, skips } of ax.tears) root.append(svg("text", { x, y: y(top + TILE / 2) + 4, "text-anchor": "middle", "font-size": 9 }, `⋯${ax.wide > 20 ? skips : ""}`));
    name(top + TILE / 2, two ? `cached by ${"AB"[n]}` : "cached");
    name(under + 8, "index");
    name(under + 23, "to the query");
  };

  const tile = (root, one, n, ax, y, tall) => {
    const x = one.x + 1, wide = ax.wide - 2, text = one.role === "memory" ? `M${Number(one.key.slice(1)) + 1}` : String(one.frame);
    const size = Math.min(13, (wide / text.length) * 1.4, tall * 0.8), turned = size < 8 && tall >= 24;
    const group = svg("g", { class: `tile ${one.role}` }, svg("rect", { x, y, width: wide, height: tall - (one.rows > 1 ? 1 : 0), rx: 2 }));
    const middle = [x + wide / 2, y + tall / 2];
    if (turned) group.append(svg("text", { x: 0, y: 3.4, "text-anchor": "middle", "font-size": 9.5, transform: `translate(${middle[0].toFixed(1)} ${middle[1].toFixed(1)}) rotate(-90)` }, text));
    else if (size >= 6) group.append(svg("text", { x: middle[0], y: middle[1] + size * 0.36, "text-anchor": "middle", "font-size": size }, text));
    const edge = one.mark === "o" ? `own-${"ab"[n]}` : one.mark === "x" ? "made" : one.again ? "again" : "";
    if (edge && one.rows < 3) group.append(svg("rect", { class: edge, x: x - 0.5, y: y - 0.5, width: wide + 1, height: tall + (one.rows > 1 ? 0 : 1), rx: 3 }));
    if (one.rows > 2 && one.row === one.rows - 1) {
      const [first, all] = [y - (n ? 0 : TILE - tall), `×${one.rows}`];
      if (edge) group.append(svg("rect", { class: edge, x: x - 0.5, y: first - 0.5, width: wide + 1, height: TILE + 1, rx: 3 }));
      group.append(svg("text", { class: "many", x: x + wide / 2, y: first - 6 + (n ? TILE + 16 : 0), "text-anchor": "middle", "font-size": 9.5 }, all));
    }
//# if refined
    group.append(svg("title", {}, one.title));
    if (one.picked || one.date !== undefined) group.append(svg("rect", { class: one.picked ? "picked" : "dated", x: x + 1.5, y: y + 1.5, width: Math.max(1, wide - 3), height: Math.max(1, tall - 3), rx: 2 }));
//# endif
    root.append(group);
  };

  // What the streams average: a ribbon from the frames to the tile, and above the strip how much of each frame is left.
  const memory = (root, view, n, at, ax, px, y) => {
    const streams = view.all.filter((one) => one.role === "memory").map((one) => ({ one, parts: mix(n, at, Number(one.key.slice(1))) }));
    const most = Math.max(...streams.flatMap(({ parts }) => parts.map((p) => p[1])), 1e-9);
    for (const [k, { one, parts }] of streams.entries()) {
      if (!parts.length) continue;
      const a = parts[0][0] * px, b = (parts.at(-1)[0] + 1) * px, from = y(WEIGHTS + STRIP), to = y(WEIGHTS + STRIP + FAN), mid = y(WEIGHTS + STRIP + FAN / 2);
      if (k === 0) root.append(svg("rect", { class: "memory ribbon", x: a, width: b - a, y: y(WEIGHTS, STRIP), height: STRIP }));
      const left = one.x + 1, right = one.x + ax.wide - 1, p = (v) => v.toFixed(1);
      root.append(svg("path", { class: "memory ribbon", d: `M${p(a)} ${from}C${p(a)} ${mid} ${p(left)} ${mid} ${p(left)} ${to}H${p(right)}C${p(right)} ${mid} ${p(b)} ${mid} ${p(b)} ${from}Z` }));
      const line = parts.map(([frame, w]) => `L${p(frame * px)} ${p(y(WEIGHTS - 2 - (WEIGHTS - 6) * (w / most)))}H${p((frame + 1) * px)}`).join("");
      root.append(svg("path", { class: k === 0 ? "weight one" : "weight", d: `M${p(a)} ${y(WEIGHTS - 2)}${line}L${p(b)} ${y(WEIGHTS - 2)}Z` }));
    }
  };

  const show = (at, { still = false } = {}) => {
    const mine = (turn += 1), begun = performance.now(), long = still || calm.matches || !shown ? 0 : 260;
    const goal = paint(at, 1);
    if (!long) { shown = goal; return; }
    const tick = (now) => {
      if (mine !== turn) { shown = goal; return; }
      const t = Math.min(1, Math.max(0, (now - begun) / long));
      paint(at, t * t * (3 - 2 * t));
      if (t < 1) requestAnimationFrame(tick);
      else shown = goal;
    };
    paint(at, 0);
    requestAnimationFrame(tick);
  };
  return { show, remembers };
};
