// Runs before the first paint, so that a chosen scheme never flashes.
(() => {
  let chosen = null;
  try { chosen = localStorage.getItem('theme'); } catch { /* storage may be forbidden */ }
  if (chosen === 'light' || chosen === 'dark') document.documentElement.dataset.theme = chosen;
})();
