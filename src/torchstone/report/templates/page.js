"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector) => [...document.querySelectorAll(selector)];
  const printing = matchMedia("print");
  const coarse = matchMedia("(pointer: coarse)");
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");

  let closed = null; // the sections to close again after printing; null while not printing

  // Theme ------------------------------------------------------------------------------------------------------
  const twins = JSON.parse(document.getElementById("palette").textContent);
  const isDark = () => closed === null && (root.dataset.theme ?? (prefersDark.matches ? "dark" : "light")) === "dark";
  const themeButton = document.getElementById("theme");
  const showTheme = () => themeButton.setAttribute("aria-pressed", String(isDark()));
  themeButton.hidden = false;
  themeButton.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("torchstone-theme", root.dataset.theme); } catch { /* not kept in a sandbox */ }
    showTheme();
    repaint();
  });
  prefersDark.addEventListener("change", () => { showTheme(); repaint(); });

  // A figure comes in the light page's colours; the dark page swaps each for its twin.
  const inTheme = (value) => {
    if (!isDark()) return value;
    if (typeof value === "string") return twins[value] ?? value;
    if (Array.isArray(value)) return typeof value[0] === "number" ? value : value.map(inTheme);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, inTheme(inner)]));
  };

  // Plots ------------------------------------------------------------------------------------------------------
  const plots = all(".plot");
  const PAPER = 640; // pixels that fit on A4 and Letter; the width of the sheet is not known before it is laid out
  const figures = new WeakMap();
  const settings = { displayModeBar: false, responsive: false, showTips: false };
  let unpacking = null, source = "";

  // Two steps: unpacking is asynchronous and costs nothing that is felt; starting blocks for a moment, but is
  // synchronous, so that even a printer that did not wait finds its plots.
  const unpack = async () => {
    const packed = atob(document.getElementById("plotly").textContent.trim());
    const bytes = new Uint8Array(packed.length);
    for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i); // ten times as fast as Uint8Array.from
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    source = await new Response(stream).text();
  };
  const start = () => {
    if (!source || window.Plotly) return;
    const script = document.createElement("script");
    script.textContent = source;
    source = "";
    document.head.append(script);
  };
  const unpacked = () => (unpacking ??= unpack());
  const ready = () => unpacked().then(() => {
    start();
    if (!window.Plotly) throw new Error("the plotting library did not start");
  });

  const figureOf = (plot) => {
    if (!figures.has(plot)) figures.set(plot, JSON.parse(plot.nextElementSibling.textContent));
    return figures.get(plot);
  };
  // A legend of several rows takes its height from the page, not from the plot.
  const legendHeight = ({ data, layout }, width) => {
    if (!layout.showlegend) return 0;
    const names = [...data.filter((trace) => trace.showlegend !== false), ...(layout.shapes ?? [])].map((entry) => entry.name ?? "");
    const widest = Math.min(width, 48 + 6.5 * Math.max(...names.map((name) => name.length)));
    return 19 * Math.ceil(names.length / Math.max(1, Math.floor((width - 60) / widest)));
  };
  const draw = (plot) => {
    const width = closed ? PAPER : plot.clientWidth;
    if (!width || !window.Plotly) return;
    const figure = inTheme(figureOf(plot));
    const layout = { ...figure.layout, width, height: figure.layout.height + legendHeight(figure, width), dragmode: coarse.matches ? false : "zoom" };
    window.Plotly.react(plot, structuredClone(figure.data), layout, settings);
    plot.dataset.drawn = String(width);
  };
  const fail = (plot, error) => {
    plot.dataset.failed = String(error);
    plot.style.minHeight = "0";
    plot.nextElementSibling.nextElementSibling.open = true;
  };
  const drawSoon = (plot) => ready().then(() => draw(plot)).catch((error) => fail(plot, error));
  const repaint = () => plots.filter((plot) => plot.dataset.drawn).forEach(draw);

  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) { seen.unobserve(entry.target); drawSoon(entry.target); }
    }
  }, { rootMargin: "400px" });
  const resized = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (!closed && target.dataset.drawn && target.clientWidth && target.dataset.drawn !== String(target.clientWidth)) draw(target);
    }
  });
  for (const plot of plots) { seen.observe(plot); resized.observe(plot); }
  // Both while nothing else happens, so that the first opened section and the printer need not wait.
  const idly = (task) => (window.requestIdleCallback ?? setTimeout)(() => task().catch(() => {}));
  if (plots.length) addEventListener("load", () => { idly(unpacked); setTimeout(() => idly(ready), 3000); });

  // Sections ---------------------------------------------------------------------------------------------------
  const reveal = (id) => {
    const target = id && document.getElementById(id);
    if (!target) return false;
    for (let box = target; box; box = box.parentElement) if (box instanceof HTMLDetailsElement) box.open = true;
    const focus = target.matches("details") ? target.querySelector("summary") : target;
    if (focus.tabIndex < 0) focus.tabIndex = -1;
    focus.focus({ preventScroll: true });
    target.scrollIntoView({ block: "start" });
    return true;
  };
  // Followed by hand: in a notebook's frame, "#place" would otherwise leave the page.
  document.addEventListener("click", (event) => {
    const link = event.target instanceof Element ? event.target.closest('a[href^="#"]') : null;
    if (!link) return;
    event.preventDefault();
    const id = link.getAttribute("href").slice(1);
    try { history.replaceState(null, "", "#" + id); } catch { /* no address of its own in a notebook */ }
    reveal(id);
  });
  addEventListener("hashchange", () => reveal(decodeURIComponent(location.hash.slice(1))));
  if (location.hash) reveal(decodeURIComponent(location.hash.slice(1)));

  const expand = document.getElementById("expand");
  const readings = all("details.reading");
  expand.hidden = readings.length === 0;
  expand.addEventListener("click", () => {
    const open = readings.some((reading) => !reading.open);
    expand.textContent = open ? "Collapse all" : "Expand all";
    for (const reading of readings) reading.open = open;
  });

  // Printing: everything open, every plot drawn, in the light page's colours --------------------------------------
  const beforePrint = () => {
    if (closed) return;
    closed = all("details:not([open])");
    for (const details of closed) details.open = true;
    start();
    for (const plot of plots) draw(plot);
  };
  const afterPrint = () => {
    for (const details of closed ?? []) details.open = false;
    closed = null;
    repaint();
  };
  addEventListener("beforeprint", beforePrint);
  addEventListener("afterprint", afterPrint);
  printing.addEventListener("change", (event) => {
    if (event.matches) { beforePrint(); ready().then(() => plots.forEach(draw)).catch(() => {}); } else afterPrint();
  });
  showTheme();
})();
