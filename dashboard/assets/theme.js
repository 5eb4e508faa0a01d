// Runs before the first paint: a remembered choice wins over the system's.
(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("petawatch-theme");
  } catch {
    // Storage may be refused; the system's preference then stands.
  }
  const light = matchMedia("(prefers-color-scheme: light)");
  const apply = () => {
    document.documentElement.dataset.theme = chosen ?? (light.matches ? "light" : "dark");
  };
  light.addEventListener("change", apply);
  apply();
})();
