(() => {
  const root = document.getElementById("player");
  if (!root) return;
  const data = JSON.parse(document.getElementById("scenes").textContent);
  const $ = (id) => document.getElementById(id);
  const tiles = [...root.querySelectorAll(".tile")];
  const [play, at, clock, now, shots] = ["play", "at", "clock", "now", "shots"].map($);
  let scene = data.scenes[0];

  const shown = () => tiles.filter((t) => !t.hidden && scene.tiles[t.dataset.series].src).map((t) => t.querySelector("video"));
  const shotAt = (t) => Math.max(0, scene.shots.findLastIndex((s) => s.begin <= t + 1e-6));

  const draw = () => {
    const number = shotAt(step.time), shot = scene.shots[number], seconds = (step.frame / scene.fps).toFixed(1);
    at.value = step.frame;
    clock.value = `${seconds} of ${(scene.frames / scene.fps).toFixed(1)} s`;
    at.setAttribute("aria-valuetext", `${seconds} seconds, frame ${step.frame}: ${shot.prompt}`);
    const what = step.time < scene.given ? "true frames: " : number && shot.cut ? "cut: " : number ? "new prompt: " : "";
    now.textContent = what + shot.prompt;
    [...shots.querySelectorAll("button")].forEach((b, n) => b.setAttribute("aria-current", String(n === number)));
  };
  const label = () => {
    play.textContent = step.playing ? "❚❚" : "▶";
    play.setAttribute("aria-label", step.playing ? "Pause" : "Play");
  };
  const step = inStep({
    videos: shown,
    fps: () => scene.fps,
    frames: () => scene.frames,
    rate: () => Number($("speed").value),
    loop: () => $("loop").checked,
    drawn: draw,
    changed: label,
  });

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
      button.addEventListener("click", () => step.jump(shot.begin + 0.5 / scene.fps));
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
    const again = step.playing;
    step.pause();
    scene = next;
    step.reset();
    at.max = scene.frames - 1;
    strip();
    load();
    draw();
    if (again) step.play();
    else step.loaded().then(() => { if (!step.playing) step.seek(step.time); });
  };
  const choose = () => {
    const next = data.scenes.find((s) => String(s.prompt) === $("prompt").value && String(s.seed) === $("seed").value);
    if (next) show(next);
  };

  for (const tile of tiles) tile.querySelector("video").controls = false;
  root.querySelector(".controls").hidden = false;
  play.addEventListener("click", () => (step.playing ? step.pause() : step.play()));
  at.addEventListener("input", () => step.jump((Number(at.value) + 0.5) / scene.fps));
  $("speed").addEventListener("change", () => { if (step.playing) step.play(); });
  $("prompt").addEventListener("change", choose);
  $("seed").addEventListener("change", choose);
  for (const pick of root.querySelectorAll("[data-tile]")) {
    pick.addEventListener("click", () => {
      const tile = tiles[pick.dataset.tile];
      tile.hidden = !tile.hidden;
      pick.setAttribute("aria-pressed", String(!tile.hidden));
      const again = step.playing;
      step.pause();
      load();
      step.loaded().then(() => (again ? step.play() : step.seek(step.time)));
    });
  }
  show(scene);
})();
