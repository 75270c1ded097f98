"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const study = JSON.parse($("study").textContent);
  const sides = ["left", "right"], letters = { left: "A", right: "B" };
  const videos = sides.map($);
  const total = study.pairs.length + study.repeats;

  // The order of one rater, drawn from a seed that goes with the answers, so that it can be drawn again from them.
  const uniform = (state) => () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
  const showings = (seed) => {
    const draw = uniform(seed), order = study.pairs.map((_, n) => n);
    for (let last = order.length - 1; last > 0; last -= 1) {
      const other = Math.floor(draw() * (last + 1));
      [order[last], order[other]] = [order[other], order[last]];
    }
    const shown = (pair, swapped, again) => {
      const { a, b } = study.pairs[pair];
      return { pair, left: swapped ? b : a, right: swapped ? a : b, again, watched: false, seconds: 0, ratings: {}, preference: null };
    };
    const first = order.map((pair) => shown(pair, draw() < 0.5, false));
    return [...first, ...first.slice(0, study.repeats).map((s) => shown(s.pair, s.left === study.pairs[s.pair].a, true))];
  };
  const newSeed = () => crypto.getRandomValues(new Uint32Array(1))[0] || 1;

  // All raters of this study in this browser, by name. A page from disk may have no storage.
  const shelf = `video-study-${study.study}`;
  const stored = (() => {
    try {
      localStorage.setItem(`${shelf}-probe`, "1");
      localStorage.removeItem(`${shelf}-probe`);
      return Object.assign(Object.create(null), JSON.parse(localStorage.getItem(shelf))); // no name is taken: a rater may be "constructor"
    } catch { return null; }
  })();
  let mine = null, pair = null, rows = [], since = 0;
  const store = () => {
    if (!stored) return;
    stored[mine.rater] = mine;
    try { localStorage.setItem(shelf, JSON.stringify(stored)); } catch { /* full: the page itself still has the answers */ }
  };
  addEventListener("beforeunload", (event) => { if (mine && !stored && !$("done").dataset.saved) event.preventDefault(); });

  const show = (id) => { for (const part of ["welcome", "trial", "done"]) $(part).hidden = part !== id; };
  const now = () => mine.showings[mine.at];

  const step = inStep({
    videos: () => videos,
    fps: () => pair.fps,
    frames: () => pair.frames,
    drawn: () => {
      const number = Math.max(0, pair.shots.findLastIndex((s) => s.begin <= step.time + 1e-6)), shot = pair.shots[number];
      const seconds = (step.frame / pair.fps).toFixed(1);
      $("at").value = step.frame;
      $("at").setAttribute("aria-valuetext", `${seconds} seconds: ${shot.prompt}`);
      $("clock").value = `${seconds} of ${(pair.frames / pair.fps).toFixed(1)} s`;
      [...$("now").children].forEach((item, n) => { item.style.visibility = n === number ? "visible" : "hidden"; });
      [...$("shots").children].forEach((item, n) => item.setAttribute("aria-current", String(n === number)));
    },
    changed: () => {
      $("play").textContent = step.playing ? "❚❚" : "▶";
      $("play").setAttribute("aria-label", step.playing ? "Pause" : "Play");
    },
    ended: () => {
      if (now().watched) return;
      now().watched = true;
      store();
      unlock();
    },
  });
  const toggle = () => (step.playing ? step.pause() : step.play());
  const restart = async () => {
    step.pause();
    await step.seek(0);
    step.play();
  };

  const element = (tag, props = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), props);
    made.append(...children);
    return made;
  };
  const row = (name, label, marks, chosen, choose, ends) => {
    const group = element("div", { className: ends ? "row" : "row choice", tabIndex: -1 });
    group.setAttribute("role", "radiogroup");
    group.setAttribute("aria-label", label);
    const line = element("div", { className: "marks" });
    if (ends) line.append(element("span", { className: "side", textContent: letters[name.split("-")[1]], ariaHidden: "true" }));
    const inputs = marks.map(({ value, text, told }) => {
      const input = element("input", { type: "radio", name, value, checked: value === chosen });
      if (told) input.setAttribute("aria-label", told);
      input.addEventListener("change", () => {
        choose(value);
        $("missing").textContent = "";
        store();
      });
      line.append(element("label", { className: "mark" }, input, element("span", { textContent: text })));
      return input;
    });
    group.append(line);
    if (ends) group.append(element("div", { className: "ends", ariaHidden: "true" }, ...ends.map((text) => element("span", { textContent: text }))));
    rows.push({ group, inputs });
    return group;
  };
  const ask = () => {
    const trial = now();
    rows = [];
    const asked = study.questions[pair.questions].map(({ name, text, low, high }) => {
      trial.ratings[name] ??= { left: null, right: null };
      const given = trial.ratings[name];
      const marks = [1, 2, 3, 4, 5].map((value) => ({ value, text: value, told: value === 1 ? `1, ${low}` : value === 5 ? `5, ${high}` : "" }));
      const both = sides.map((side) => row(`${name}-${side}`, `${text} Video ${letters[side]}`, marks, given[side], (value) => { given[side] = value; }, [low, high]));
      return element("div", { className: "question" }, element("p", { textContent: text }), element("div", { className: "both" }, ...both));
    });
    const choices = [["left", "A"], ["same", "No difference"], ["right", "B"]].map(([value, text]) => ({ value, text }));
    const text = "Which of the two do you prefer?";
    const preferred = row("preference", text, choices, trial.preference, (value) => { trial.preference = value; });
    $("questions").replaceChildren(...asked, element("div", { className: "question" }, element("p", { textContent: text }), preferred));
  };
  const answered = ({ inputs }) => inputs.some((input) => input.checked);
  const focus = ({ group }) => {
    group.focus({ preventScroll: true });
    group.scrollIntoView({ block: "nearest" });
  };

  const unlock = () => {
    const watched = now().watched;
    for (const id of ["fields", "next", "at"]) $(id).disabled = !watched;
    $("status").textContent = watched ? "The questions are open. You can play the videos again." : "Watch both to the end: then the questions open.";
  };
  const turn = () => {
    if (mine.at >= total) return finish();
    pair = study.pairs[now().pair];
    step.pause();
    step.reset();
    show("trial");
    $("where").textContent = `Pair ${mine.at + 1} of ${total}`;
    $("next").textContent = mine.at + 1 === total ? "Finish" : "Next pair";
    Object.assign($("progress"), { max: total, value: mine.at });
    $("at").max = pair.frames - 1;
    $("broken").hidden = true;
    $("missing").textContent = "";
    $("stage").classList.remove("large");
    sides.forEach((side, n) => { videos[n].src = `videos/${now()[side]}.mp4`; });
    // All in one place, one of them visible: a longer prompt moves nothing.
    $("now").replaceChildren(...pair.shots.map((shot, n) => element("span", { textContent: (n && shot.cut ? "Cut to: " : "") + shot.prompt })));
    $("shots").hidden = pair.shots.length < 2;
    $("shots").replaceChildren(...pair.shots.map((shot, n) => {
      const item = element("li", { textContent: (n && shot.cut ? "cut: " : "") + shot.prompt, title: `${shot.begin.toFixed(1)} s: ${shot.prompt}` });
      item.style.flexGrow = shot.end - shot.begin;
      return item;
    }));
    ask();
    unlock();
    step.seek(step.time);
    since = Date.now();
    scrollTo(0, 0);
    $("where").focus({ preventScroll: true });
  };

  const enter = (name) => {
    const seed = newSeed();
    mine = stored?.[name] ?? { rater: name, seed, began: new Date().toISOString(), at: 0, showings: showings(seed) };
    turn();
  };
  const answers = () => JSON.stringify({
    format: "video study answers 1",
    study: study.study,
    rater: mine.rater,
    seed: mine.seed,
    began: mine.began,
    ended: mine.ended,
    showings: mine.showings.map(({ left, right, again, seconds, ratings, preference }) => ({ left, right, again, seconds, ratings, preference })),
  }, null, 1);
  const finish = () => {
    mine.ended ??= new Date().toISOString();
    store();
    show("done");
    const plain = mine.rater.split(/[^\p{L}\p{N}_]+/u).filter(Boolean).join("-");
    $("file").textContent = `answers-${plain || "rater"}.json`;
    $("text").value = answers();
    $("thanks").focus();
  };

  $("begin").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = $("name").value.trim();
    if (name) enter(name);
    else $("name").focus();
  });
  $("answers").addEventListener("submit", (event) => {
    event.preventDefault();
    const missing = rows.filter((each) => !answered(each));
    if (missing.length) {
      $("missing").textContent = missing.length === 1 ? "One answer is missing." : `${missing.length} answers are missing.`;
      return focus(missing[0]);
    }
    now().seconds += Math.max(0, Math.round((Date.now() - since) / 1000));
    mine.at += 1;
    store();
    turn();
  });
  $("save").addEventListener("click", () => {
    const link = element("a", { href: URL.createObjectURL(new Blob([answers()], { type: "application/json" })), download: $("file").textContent });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    $("done").dataset.saved = "yes";
    $("saved").textContent = "Saved to your downloads. You can close this page.";
  });
  $("play").addEventListener("click", toggle);
  $("restart").addEventListener("click", restart);
  $("at").addEventListener("input", () => step.jump((Number($("at").value) + 0.5) / pair.fps));
  for (const video of videos) {
    video.addEventListener("loadedmetadata", () => {
      $("stage").style.setProperty("--ratio", `${video.videoWidth} / ${video.videoHeight}`);
      $("stage").classList.toggle("large", video.videoWidth > 480);
    });
    video.addEventListener("error", () => {
      $("broken").textContent = `Video ${letters[video.id]} cannot be played here. Open this page in another browser, such as Chrome, Edge, Firefox or Safari; if it fails there too, tell whoever gave it to you.`;
      $("broken").hidden = false;
    });
  }

  addEventListener("keydown", (event) => {
    if ($("trial").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
    const at = event.target, radio = at.type === "radio";
    if (event.key === " ") {
      if (at.closest("button") || (radio && !at.checked)) return; // Space means these themselves
      event.preventDefault();
      toggle();
    } else if (event.key.toLowerCase() === "r") restart();
    else if (event.key === "Enter" && at.classList.contains("row")) $("answers").requestSubmit();
    else if (/^[1-5]$/.test(event.key) && !$("fields").disabled) {
      const current = rows.find(({ group }) => group.contains(at)) ?? rows.find((each) => !answered(each));
      const input = current?.inputs[Number(event.key) - 1];
      if (!input) return;
      if (!input.checked) input.click();
      const next = rows.slice(rows.indexOf(current) + 1).find((each) => !answered(each)) ?? rows.find((each) => !answered(each));
      if (next) focus(next);
      else $("next").focus();
    }
  });

  const many = (count, one) => `${count} ${one}${count === 1 ? "" : "s"}`;
  $("count").textContent = many(total, "pair") + " of videos";
  const watching = study.pairs.reduce((sum, { frames, fps }) => sum + frames / fps, 0) * (total / study.pairs.length);
  $("minutes").textContent = many(Math.max(1, Math.ceil((watching + 30 * total) / 60)), "minute");
  $("memory").hidden = Boolean(stored);
  for (const [name, { at }] of Object.entries(stored ?? {})) {
    const label = at >= total ? `Save the answers of ${name} again` : `Go on as ${name}: pair ${at + 1} of ${total}`;
    const button = element("button", { type: "button", textContent: label });
    button.addEventListener("click", () => enter(name));
    $("stored").append(button);
    $("stored").hidden = false;
  }
})();
