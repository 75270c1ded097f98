// In the page's head, so that it does not flash in the other colours.
try {
  const theme = localStorage.getItem("rollout-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch { /* a page from disk may have no storage */ }
