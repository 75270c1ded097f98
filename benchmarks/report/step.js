// Videos in step. `videos`, `fps` and `frames` are asked anew each time; `drawn` hears of every new time, `changed` of
// play and pause, `ended` of the end.
const inStep = ({ videos, fps, frames, rate = () => 1, loop = () => false, drawn, changed, ended = () => {} }) => {
  let time = 0, playing = false, turn = 0, started = [];
  const end = () => frames() / fps();

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
    time = Math.max(0, Math.min(to, end() - 0.5 / fps()));
    drawn();
    await Promise.all(videos().map((v) => move(v, time)));
  };

  const pause = () => {
    turn += 1;
    playing = false;
    for (const v of started) v.pause();
    changed();
  };
  const play = async () => {
    pause();
    const mine = turn;
    started = videos();
    playing = true;
    changed();
    await Promise.all(started.map(ready));
    await seek(time >= end() - 1.5 / fps() ? 0 : time);
    if (mine !== turn) return;
    for (const v of started) v.playbackRate = rate();
    await Promise.allSettled(started.map((v) => v.play()));
    if (mine === turn) requestAnimationFrame(() => tick(mine));
  };

  // The first video leads. Small differences are made up by speed, which no one sees, larger ones by a jump.
  const tick = (mine) => {
    if (mine !== turn || !started.length) return;
    const lead = started[0].currentTime, half = 0.5 / fps();
    if (started.some((v) => v.ended) || lead >= end() - half / 4) {
      time = end();
      if (loop()) play();
      else {
        pause();
        seek(time);
        ended();
      }
      return;
    }
    if (lead < end() - 4 * half && started.some((v) => v.readyState < 3 && !v.error)) { // one waits for data: all wait
      time = lead;
      const waiting = (turn += 1); // it is still playing to whoever looks on: the next press means pause
      for (const v of started) v.pause();
      Promise.all(started.map((v) => (v.readyState < 3 && !v.error ? event(v, "canplay") : null))).then(() => { if (turn === waiting) play(); });
      return;
    }
    for (const v of started.slice(1)) {
      const off = v.currentTime - lead;
      if (Math.abs(off) > 8 * half) v.currentTime = lead;
      else if (Math.abs(off) > half) v.playbackRate = rate() * (off > 0 ? 0.8 : 1.25);
      else if (Math.abs(off) < half / 2 && v.playbackRate !== rate()) v.playbackRate = rate();
    }
    time = lead;
    drawn();
    requestAnimationFrame(() => tick(mine));
  };

  return {
    play, pause, seek,
    loaded: () => Promise.all(videos().map(ready)),
    jump: async (to) => {
      const again = playing;
      pause();
      await seek(to);
      if (again) play();
    },
    reset: () => { time = 0.5 / fps(); },
    get time() { return time; },
    get frame() { return Math.min(frames() - 1, Math.floor(time * fps() + 1e-6)); },
    get playing() { return playing; },
  };
};
