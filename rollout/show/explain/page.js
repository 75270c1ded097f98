(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent), two = data.sides.length > 1, count = data.blocks.length;
  const ruler = Ruler(data, $("stage")), slider = $("at");
  const events = data.blocks.flatMap(([, , change, cut], n) => (n && (change || cut) ? [n] : []));
  let at = 0, player = 0, telling = 0;

  const fill = (list, told) => list.replaceChildren(...told.map(([word, says]) => {
    const row = document.createElement("div"), term = document.createElement("dt"), text = document.createElement("dd");
    if (/^(Cut|New)/.test(word)) row.className = "event";
    term.textContent = word;
    text.textContent = says;
    row.append(term, text);
    return row;
  }));

  const spoken = () => {
    const [start, prompt] = data.blocks[at];
    return `block ${at} of ${count - 1}, ${data.times[at].toFixed(1)} seconds, frames ${start} to ${start + data.size - 1}, prompt: ${data.prompts[prompt]}`;
  };

  const show = (to, more = {}) => {
    at = Math.max(0, Math.min(count - 1, to));
    const [start, prompt, change, cut] = data.blocks[at], small = document.createElement("small");
    slider.value = at;
    slider.setAttribute("aria-valuetext", spoken());
    small.textContent = ` frames ${start}–${start + data.size - 1}, ${data.times[at].toFixed(2)}–${data.times[at + 1].toFixed(2)} s, “${data.prompts[prompt]}”`;
    $("where").replaceChildren(`Block ${at}${at && cut ? ": a cut" : at && change ? ": a new prompt" : ""}`, small);
    ruler.show(at, more);
    data.sides.forEach((side, n) => fill($(`say-${n}`), side.steps[at].says));
//# if refined
    data.sides.forEach((side, n) => shelf(side, n));
//# endif
    if (two) fill($("differ"), data.differ[at]);
    for (const head of document.querySelectorAll(".map .head")) head.style.left = `${(100 * (at + 0.5)) / count}%`;
    [...$("shots").querySelectorAll("button")].forEach((b) => b.setAttribute("aria-current", String(Number(b.dataset.prompt) === prompt)));
    clearTimeout(telling);
    telling = setTimeout(() => { // one announcement for a row of fast steps
      const told = [...(two ? data.differ[at] : []), ...data.sides.flatMap((side) => side.steps[at].says)];
      $("live").textContent = `${spoken()}. ${told.map(([word, says]) => `${word}: ${says}`).join(" ")}`;
      try { history.replaceState(null, "", `#block=${at}`); } catch { /* a page inside another may not */ }
    }, 250);
  };

//# if refined
  // What is cached and not read, as hatched tiles; and of all that is cached what it read when it was written.
  const shelf = (side, number) => {
    const step = side.steps[at], names = ["sink", "memory", "recent"];
    const tiles = (step.unread || []).map(([, role, frame, date]) => element("span", role === 1 ? "M" : date === null ? frame : `${frame} as ${date}`, names[role]));
    $(`unread-${number}`).replaceChildren(...(tiles.length ? [element("small", "stored, not read"), ...tiles] : []));
    const frames = [...step.slots.map(([role, frame]) => [role, frame]), ...(step.unread || []).map(([, role, frame]) => [role, frame])].filter(([role]) => role !== 1).map(([, frame]) => frame);
    const lines = new Map();
    for (const frame of [...new Set(frames)].sort((a, b) => a - b)) {
      const text = Written(data, number, at, frame);
      lines.set(text, [lines.has(text) ? lines.get(text)[0] : frame, frame]);
    }
    $(`written-${number}`).replaceChildren(...[...lines].map(([text, [from, to]]) => element("li", `${from === to ? from : `${from}–${to}`}: ${text}`)));
  };

//# endif
  const stop = () => {
    clearInterval(player);
    player = 0;
    $("play").textContent = "▶";
    $("play").setAttribute("aria-label", "Play");
  };
  const play = () => {
    if (player) return stop();
    if (at === count - 1) show(0);
    player = setInterval(() => (at < count - 1 ? show(at + 1) : stop()), 600);
    $("play").textContent = "❚❚";
    $("play").setAttribute("aria-label", "Pause");
    return undefined;
  };
  const go = (to, more) => { stop(); show(to, more); };
  const skip = (by) => (by > 0 ? events.find((n) => n > at) ?? count - 1 : events.findLast((n) => n < at) ?? 0);

  const shots = () => {
    const opens = data.blocks.flatMap(([, prompt], n) => (n === 0 || prompt !== data.blocks[n - 1][1] ? [[n, prompt]] : []));
    if (opens.length > 24) return; // no room to name them
    $("shots").replaceChildren(...opens.map(([n, prompt], i) => {
      const item = document.createElement("li"), button = document.createElement("button"), cut = n && data.blocks[n][3];
      item.style.flexGrow = (i + 1 < opens.length ? opens[i + 1][0] : count) - n;
      if (cut) item.className = "cut";
      button.type = "button";
      button.dataset.prompt = prompt;
      button.textContent = (cut ? "cut: " : "") + data.prompts[prompt];
      button.title = button.textContent;
      button.addEventListener("click", () => go(n));
      item.append(button);
      return item;
    }));
  };

  const element = (tag, text, name = "") => Object.assign(document.createElement(tag), { textContent: text, className: name });

  // All blocks of a side: one path a role, in blocks and indices, stretched to the page.
  const paths = (side) => {
//# if refined
    const top = side.steps.reduce((m, s) => Math.max(m, ...s.own, ...(s.ahead || []), ...s.slots.map((p) => p[2])), data.trained - 1) + 1;
//# else
    const top = side.steps.reduce((m, s) => Math.max(m, ...s.own, ...s.slots.map((p) => p[2])), data.trained - 1) + 1;
//# endif
    const found = { band: "", sink: "", memory: "", recent: "", block: "" }, names = ["sink", "memory", "recent"];
    const gap = top > 60 ? 0 : 0.08, box = (n, low, high) => `M${n + 0.06} ${top - high - 1 + gap}h.88V${top - low - gap}h-.88z`;
    side.steps.forEach((step, n) => {
      const last = step.own.at(-1);
      found.band += `M${n} ${top - Math.max(last, data.trained - 1) - 1}h1V${top - Math.max(0, last - data.trained + 1)}h-1z`;
      for (const [role, , index] of step.slots) found[names[role]] += box(n, index, index);
      for (const index of step.own) found.block += box(n, index, index);
//# if refined
      for (const index of step.ahead || []) found.ahead = (found.ahead || "") + box(n, index, index);
//# endif
    });
    return { top, parts: Object.entries(found) };
  };
  const differences = () => {
    const count_ = (n, side, mark) => [...data.sides[side].steps[n].marks].filter((m) => m === mark).length;
    const rows = data.blocks.map((_, n) => [count_(n, 0, "o"), count_(n, 1, "o"), count_(n, 0, "m")]);
    const top = Math.max(1, ...rows.map(([a, , m]) => Math.max(a, m))), low = Math.max(1, ...rows.map((r) => r[1]));
    const parts = [["only-a", ""], ["only-b", ""], ["moved", ""]];
    rows.forEach(([a, b, m], n) => {
      if (a) parts[0][1] += `M${n + 0.06} ${top}v${-a}h.4v${a}z`;
      if (b) parts[1][1] += `M${n + 0.06} ${top}v${b}h.4v${-b}z`;
      if (m) parts[2][1] += `M${n + 0.54} ${top}v${-m}h.4v${m}z`;
    });
    return { top: top + low, parts };
  };
  const map = (heading, note, { top, parts }, thin) => {
    const box = element("div", "", thin ? "map thin" : "map"), head = element("h3", heading), picture = svg("svg", { viewBox: `0 0 ${count} ${top}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    head.append(element("small", note));
    for (const [name, d] of parts) if (d) picture.append(svg("path", { class: name, d }));
    for (const n of events) picture.append(svg("line", { class: `rule ${data.blocks[n][3] ? "cut" : "switch"}`, x1: n, x2: n, y1: 0, y2: top, "vector-effect": "non-scaling-stroke" }));
    const pick = (event) => {
      const edge = picture.getBoundingClientRect();
      go(Math.floor(((event.clientX - edge.left) / edge.width) * count), { still: true });
    };
    picture.addEventListener("pointerdown", pick);
    picture.addEventListener("pointermove", pick);
    box.append(head, picture, element("div", "", "head"));
    $("maps").append(box);
  };

  const legend = () => {
    const key = (name, text, shape = "rect") => {
      const item = element("li", ""), mark = shape === "rect" ? { x: 1, y: 1, width: 12, height: 12, rx: 2 } : { x1: 0, x2: 14, y1: 12, y2: 2 };
      item.append(svg("svg", { viewBox: "0 0 14 14", "aria-hidden": "true" }, svg(shape, { class: name, ...mark })), text);
      return item;
    };
    const roles = new Set(data.sides.flatMap((side) => side.steps.flatMap((step) => step.slots.map((slot) => slot[0]))));
    const marks = data.sides.map((side) => new Set(side.steps.flatMap((step) => [...(step.marks || "")])));
//# if refined
    const any = (name) => data.sides.some((side) => side.steps.some((step) => step[name])), memory = any("mix") ? "memory; above the strip, each frame’s weight in M1 (filled) and M2 (line)" : "memory: chosen tokens";
    const items = ["sink", "memory", "recent"].filter((_, n) => roles.has(n)).map((role) => key(role, role === "memory" ? memory : role));
    if (any("unread")) items.push(key("hatched", "stored, not read"));
    if (any("picked")) items.push(key("picked", "chosen at this block"));
    if (any("dates")) items.push(key("dated", "at another date than its frame’s"));
    if (any("ahead")) items.push(key("ahead", "ahead: later blocks in the same pass"));
//# else
    const items = ["sink", "memory", "recent"].filter((_, n) => roles.has(n)).map((role) => key(role, role === "memory" ? "memory; above the strip, each frame’s weight in M1 (filled) and M2 (line)" : role));
//# endif
    items.push(key("block", "this block: the queries"), key("band", "within the trained distance"));
    if (data.sides.some((side) => side.steps.some((step) => step.again))) items.push(key("again", "encoded again"));
    marks.forEach((some, n) => { if (some.has("o")) items.push(key(`own-${"ab"[n]}`, `only in ${"AB"[n]}`)); });
    if (marks[0].has("m")) items.push(key("link m", "in both, at another distance (else straight down)", "line"));
    if (marks[0].has("x")) items.push(key("made", "made in another way"));
    $("legend").replaceChildren(...items);
  };

  $("step").hidden = false;
  slider.max = count - 1;
  slider.addEventListener("input", () => go(Number(slider.value)));
  $("back").addEventListener("click", () => go(at - 1));
  $("on").addEventListener("click", () => go(at + 1));
  $("play").addEventListener("click", play);
  document.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.target instanceof Element && event.target.closest(".scroll") && event.target.closest(".scroll").scrollWidth > event.target.closest(".scroll").clientWidth) return;
    event.preventDefault();
    go(event.shiftKey ? skip(by) : at + by);
  });
  let wide = $("stage").clientWidth;
  new ResizeObserver(() => {
    if ($("stage").clientWidth !== wide) { wide = $("stage").clientWidth; ruler.show(at, { still: true }); }
  }).observe($("stage"));
  shots();
  legend();
  data.sides.forEach((side, n) => map(two ? `${"AB"[n]}: ${side.name}` : "Temporal index", "", paths(side)));
  if (two) map("What differs", "frames that only A (up) or only B (down) holds; dark: at another distance", differences(), true);
  const wanted = Number((location.hash.match(/^#block=(\d+)$/) || [])[1] ?? events[0] ?? count - 1);
  show(wanted, { still: true });
})();
