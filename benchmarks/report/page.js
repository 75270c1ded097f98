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
  // Colours are names of the page's own, which follow light and dark; only the font has to be measured.
  const font = getComputedStyle(root).getPropertyValue("--sans").trim();
  const text = { font, labelFont: font, titleFont: font, fontSize: 12, labelFontSize: 12, titleFontSize: 12, fontWeight: "normal", titleFontWeight: "normal" };
  const ink = { color: "var(--ink)", labelColor: "var(--ink)", titleColor: "var(--ink)" };
  const config = {
    font,
    padding: { top: 0, right: 6, bottom: 0, left: 0 },
    background: null,
    aria: false,
    view: { stroke: null },
    title: { ...text, ...ink, offset: 12 },
    axis: { ...text, ...ink, ticks: false, labelPadding: 6, gridColor: "var(--ink)", gridOpacity: 0.1, domainColor: "var(--ink)", domainOpacity: 0.35, tickCount: 5 },
    text: { font, fontSize: 12, baseline: "middle" },
  };
  const draw = (place) => vegaEmbed(place, JSON.parse(document.getElementById(place.dataset.spec).textContent), {
    mode: "vega-lite", renderer: "svg", actions: false, defaultStyle: false, config, tooltip: { theme: "page", disableDefaultStyle: true },
  }).then(({ view }) => view);
  const views = [...document.querySelectorAll("[data-spec]")].map(draw);
  const single = () => {
    const on = picks.filter((p) => p.getAttribute("aria-pressed") === "true").map((p) => p.dataset.pick);
    for (const drawn of views) drawn.then((view) => view.signal("picked", on).runAsync());
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
