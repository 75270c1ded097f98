"use strict";
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const label = () => {
    button.textContent = dark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${dark() ? "light" : "dark"} colours`);
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("rollout-theme", root.dataset.theme); } catch { /* a page from disk may have no storage */ }
    label();
  });
  system.addEventListener("change", label);
  label();

  const charts = document.querySelector(".charts");
  const legend = charts.querySelector(".legend");
  const measure = () => { if (legend) root.style.setProperty("--legend", `${legend.offsetHeight}px`); };
  addEventListener("resize", measure);
  measure();
  const picks = [...document.querySelectorAll("[data-pick]")];
  const single = () => {
    const on = new Set(picks.filter((p) => p.getAttribute("aria-pressed") === "true").map((p) => p.dataset.pick));
    charts.classList.toggle("single", on.size > 0);
    for (const part of charts.querySelectorAll(".chart [data-series]")) {
      part.classList.toggle("on", on.has(part.dataset.series));
    }
  };
  for (const pick of picks) {
    pick.addEventListener("click", () => {
      pick.setAttribute("aria-pressed", String(pick.getAttribute("aria-pressed") !== "true"));
      single();
    });
  }

  const tip = document.getElementById("tip");
  let told = null;
  const hide = () => {
    tip.hidden = true;
    if (told) told.removeAttribute("aria-describedby");
    told = null;
  };
  const tell = (element) => {
    hide();
    told = element;
    tip.textContent = element.dataset.tip;
    tip.hidden = false;
    element.setAttribute("aria-describedby", "tip");
    const at = element.getBoundingClientRect(), size = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(at.left, innerWidth - size.width - 8))}px`;
    tip.style.top = `${at.bottom + size.height + 8 < innerHeight ? at.bottom + 6 : Math.max(8, at.top - size.height - 6)}px`;
  };
  const tipped = (event) => (event.target instanceof Element ? event.target.closest("[data-tip]") : null);
  document.addEventListener("pointerover", (event) => { const e = tipped(event); if (e) tell(e); else if (told !== document.activeElement) hide(); });
  document.addEventListener("focusin", (event) => { const e = tipped(event); if (e) tell(e); else hide(); });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  document.addEventListener("scroll", hide, { capture: true, passive: true });
})();
