(() => {
  const root = document.getElementById("player");
  if (!root) return;
  const data = JSON.parse(document.getElementById("scenes").textContent);
  const $ = (id) => document.getElementById(id);
  const tiles = [...root.querySelectorAll(".tile")];
  const [play, at, clock, now, shots] = ["play", "at", "clock", "now", "shots"].map($);
  let scene = data.scenes[0], time = 0, playing = false, turn = 0;

  const end = () => scene.frames / scene.fps;
  const rate = () => Number($("speed").value);
  const shown = () => tiles.filter((t) => !t.hidden && scene.tiles[t.dataset.series].src).map((t) => t.querySelector("video"));
  const frame = () => Math.min(scene.frames - 1, Math.floor(time * scene.fps + 1e-6));
  const shotAt = (t) => Math.max(0, scene.shots.findLastIndex((s) => s.begin <= t + 1e-6));

  const draw = () => {
    const number = shotAt(time), shot = scene.shots[number];
    at.value = frame();
    clock.value = `${(frame() / scene.fps).toFixed(1)} of ${end().toFixed(1)} s`;
    at.setAttribute("aria-valuetext", `${(frame() / scene.fps).toFixed(1)} seconds, frame ${frame()}: ${shot.prompt}`);
    const what = time < scene.given ? "true frames: " : number && shot.cut ? "cut: " : number ? "new prompt: " : "";
    now.textContent = what + shot.prompt;
    [...shots.querySelectorAll("button")].forEach((b, n) => b.setAttribute("aria-current", String(n === number)));
  };

  const event = (video, name) => new Promise((done) => {
    video.addEventListener(name, done, { once: true });
    video.addEventListener("error", done, { once: true });
    setTimeout(done, 4000); // a file that never answers must not hold the others up
  });
  const ready = (video) => (video.readyState >= 2 || video.error ? null : event(video, "loadeddata"));
  const move = (video, to) => {
    if (Math.abs(video.currentTime - to) < 1e-3) return null;
    const done = event(video, "seeked");
    video.currentTime = to;
    return done;
  };
  const seek = async (to) => {
    time = Math.max(0, Math.min(to, end() - 0.5 / scene.fps));
    draw();
    await Promise.all(shown().map((v) => move(v, time)));
  };

  const stop = () => {
    turn += 1;
    playing = false;
    for (const v of tiles.map((t) => t.querySelector("video"))) v.pause();
    play.textContent = "▶";
    play.setAttribute("aria-label", "Play");
  };

  const start = async () => {
    stop();
    const mine = turn, videos = shown();
    play.textContent = "❚❚";
    play.setAttribute("aria-label", "Pause");
    playing = true;
    await Promise.all(videos.map(ready));
    await seek(time >= end() - 1.5 / scene.fps ? 0 : time);
    if (mine !== turn) return;
    for (const v of videos) v.playbackRate = rate();
    await Promise.allSettled(videos.map((v) => v.play()));
    if (mine === turn) requestAnimationFrame(() => tick(mine, videos));
  };

  // The first video leads. Small differences are made up by speed, which no one sees, larger ones by a jump.
  const tick = (mine, videos) => {
    if (mine !== turn || !videos.length) return;
    const lead = videos[0].currentTime, half = 0.5 / scene.fps;
    if (videos.some((v) => v.ended) || lead >= end() - half / 4) {
      time = end();
      if ($("loop").checked) start();
      else { stop(); seek(time); }
      return;
    }
    if (lead < end() - 4 * half && videos.some((v) => v.readyState < 3 && !v.error)) { // one waits for data: all wait
      time = lead;
      stop();
      Promise.all(videos.map((v) => (v.readyState < 3 && !v.error ? event(v, "canplay") : null))).then(() => { if (turn === mine + 1) start(); });
      return;
    }
    for (const v of videos.slice(1)) {
      const off = v.currentTime - lead;
      if (Math.abs(off) > 8 * half) v.currentTime = lead;
      else if (Math.abs(off) > half) v.playbackRate = rate() * (off > 0 ? 0.8 : 1.25);
      else if (Math.abs(off) < half / 2 && v.playbackRate !== rate()) v.playbackRate = rate();
    }
    time = lead;
    draw();
    requestAnimationFrame(() => tick(mine, videos));
  };

  const strip = () => {
    shots.replaceChildren(...scene.shots.map((shot, n) => {
      const item = document.createElement("li"), button = document.createElement("button"), label = document.createElement("span");
      item.style.flexGrow = shot.end - shot.begin;
      if (shot.cut && n) item.className = "cut";
      label.className = "label";
      label.textContent = (n && shot.cut ? "cut: " : "") + shot.prompt;
      button.type = "button";
      button.title = `${shot.begin.toFixed(1)} s: ${n && shot.cut ? "cut, " : ""}${shot.prompt}`;
      if (!n && scene.given) {
        const given = document.createElement("span");
        given.className = "given";
        given.style.width = `${(100 * scene.given) / (shot.end - shot.begin)}%`;
        button.append(given);
      }
      button.append(label);
      button.addEventListener("click", () => jump(shot.begin + 0.5 / scene.fps));
      item.append(button);
      return item;
    }));
  };

  const load = () => {
    for (const tile of tiles) {
      const told = scene.tiles[tile.dataset.series], video = tile.querySelector("video"), missing = tile.querySelector(".missing");
      video.hidden = !told.src;
      video.setAttribute("aria-label", `${tile.querySelector(".name").textContent}, prompt ${scene.prompt + 1}, seed ${scene.seed}`);
      missing.hidden = Boolean(told.src);
      missing.textContent = told.why || "";
      tile.querySelector(".score").textContent = told.value === null || told.value === undefined ? "" : `${data.primary} ${Number(told.value.toPrecision(3))} ${data.unit}`;
      if (told.src && !tile.hidden && video.getAttribute("src") !== told.src) {
        video.preload = "auto";
        video.src = told.src;
      }
    }
  };

  const show = (next) => {
    const again = playing;
    stop();
    scene = next;
    time = 0.5 / scene.fps;
    at.max = scene.frames - 1;
    strip();
    load();
    draw();
    if (again) start();
    else Promise.all(shown().map(ready)).then(() => { if (!playing) seek(time); });
  };
  const jump = async (to) => {
    const again = playing;
    stop();
    await seek(to);
    if (again) start();
  };
  const choose = () => {
    const next = data.scenes.find((s) => String(s.prompt) === $("prompt").value && String(s.seed) === $("seed").value);
    if (next) show(next);
  };

  for (const tile of tiles) tile.querySelector("video").controls = false;
  root.querySelector(".controls").hidden = false;
  play.addEventListener("click", () => (playing ? stop() : start()));
  at.addEventListener("input", () => jump((Number(at.value) + 0.5) / scene.fps));
  $("speed").addEventListener("change", () => { if (playing) start(); });
  $("prompt").addEventListener("change", choose);
  $("seed").addEventListener("change", choose);
  for (const pick of root.querySelectorAll("[data-tile]")) {
    pick.addEventListener("click", () => {
      const tile = tiles[pick.dataset.tile];
      tile.hidden = !tile.hidden;
      pick.setAttribute("aria-pressed", String(!tile.hidden));
      const again = playing;
      stop();
      load();
      Promise.all(shown().map(ready)).then(() => (again ? start() : seek(time)));
    });
  }
  show(scene);
})();
