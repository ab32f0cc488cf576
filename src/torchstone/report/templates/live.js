"use strict";
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const EVERY = 1000; // milliseconds between questions

  // Theme: figures come in the light page's colours; the dark page swaps each for its twin. ---------------------
  const twins = JSON.parse(byId("palette").textContent);
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ?? (prefersDark.matches ? "dark" : "light")) === "dark";
  const inTheme = (value) => {
    if (!isDark()) return value;
    if (typeof value === "string") return twins[value] ?? value;
    if (Array.isArray(value)) return typeof value[0] === "number" ? value : value.map(inTheme);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, inTheme(inner)]));
  };
  const button = byId("theme");
  const showTheme = () => button.setAttribute("aria-pressed", String(isDark()));
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("torchstone-theme", root.dataset.theme); } catch { /* closed */ }
    showTheme();
    repaint();
  });
  prefersDark.addEventListener("change", () => { showTheme(); repaint(); });
  showTheme();

  // Every text is set as text. -----------------------------------------------------------------------------------
  const make = (tag, settings = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(settings)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  const icon = (level) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("class", "icon");
    svg.setAttribute("aria-hidden", "true");
    const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
    use.setAttribute("href", "#i-" + level);
    svg.append(use);
    return svg;
  };

  // Plots: only those near the screen are drawn; the others when they come near. --------------------------------
  const plots = new Map(); // key -> { figure, caption, box, near, stale }
  const draw = (plot) => {
    const width = plot.box.clientWidth;
    if (!width || !plot.near) { plot.stale = true; return; }
    plot.stale = false;
    const { data, layout } = inTheme(plot.drawn);
    const named = data.filter((trace) => trace.showlegend !== false).length + (layout.shapes ?? []).length;
    const rows = layout.showlegend ? Math.ceil(named / Math.max(1, Math.floor(width / 180))) : 0;
    const full = { ...layout, width, height: layout.height + 19 * rows, uirevision: "kept" };
    window.Plotly.react(plot.box, structuredClone(data), full, { displayModeBar: false, showTips: false });
    plot.box.dataset.drawn = String(width);
    plot.box.dataset.points = String(Math.max(0, ...data.map((trace) => (trace.x ?? []).length)));
  };
  const repaint = () => plots.forEach(draw);
  const owner = new WeakMap();
  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      const plot = owner.get(target);
      plot.near = isIntersecting;
      if (isIntersecting && plot.stale) draw(plot);
    }
  }, { rootMargin: "300px" });
  const resized = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (target.dataset.drawn && target.dataset.drawn !== String(target.clientWidth)) draw(owner.get(target));
    }
  });

  const showFigure = (within, chapter, figure) => {
    const key = `${chapter.id}/${figure.title}/${figure.kind}`;
    let plot = plots.get(key);
    if (!plot) {
      const box = make("div", { class: "plot", role: "img" });
      const caption = make("span", { class: "caption" });
      const node = make("figure", { class: figure.kind }, make("figcaption", {}, make("span", { class: "title" }, figure.title), " ", caption), box);
      plot = { box, caption, node, near: false, stale: true };
      plots.set(key, plot);
      owner.set(box, plot);
      seen.observe(box);
      resized.observe(box);
    }
    if (plot.node.parentElement !== within) within.append(plot.node);
    plot.caption.textContent = figure.caption;
    plot.box.setAttribute("aria-label", figure.told);
    plot.box.style.minHeight = figure.drawn.layout.height + "px";
    plot.drawn = figure.drawn;
    draw(plot);
    return plot.node;
  };

  const showChapter = (chapter) => {
    let section = byId(chapter.id);
    if (!section) {
      const title = chapter.id + "-title";
      section = make("section", { class: "chapter", id: chapter.id, "aria-labelledby": title },
        make("h2", { id: title }, chapter.title), make("div", { class: "multiples" }));
    }
    const box = section.lastElementChild;
    const nodes = chapter.figures.map((figure) => showFigure(box, chapter, figure));
    // Another run in the same folder may have other plots, and new series come in between.
    nodes.forEach((node, i) => { if (box.children[i] !== node) box.insertBefore(node, box.children[i]); });
    while (box.children.length > nodes.length) box.lastElementChild.remove();
    return section;
  };

  const showNotice = (notice) => {
    const badge = make("span", { class: "badge " + notice.level }, icon(notice.level), notice.word);
    const item = make("li", {},
      make("p", { class: "what" }, make("strong", {}, notice.title), " ", badge, " ", make("span", { class: "quiet" }, notice.when)),
      make("p", {}, notice.message));
    if (notice.places.length) item.append(make("p", { class: "places" }, ...notice.places.flatMap((place) => [make("code", {}, place), " "])));
    if (notice.remedy) item.append(make("p", { class: "remedy" }, notice.remedy));
    return item;
  };

  let said = "";
  const show = (state) => {
    document.title = `${state.name} · torchstone`;
    byId("run-title").textContent = state.name;
    byId("kicker").textContent = state.kicker;
    byId("facts").replaceChildren(...state.facts.map((fact) => make("span", {}, fact)));
    byId("standing").textContent = state.standing;
    byId("standing").hidden = !state.standing;
    byId("tiles").replaceChildren(...state.tiles.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
    const notices = JSON.stringify(state.notices);
    if (notices !== said) { // so that a screen reader hears only what is new
      said = notices;
      byId("notice-list").replaceChildren(...state.notices.map(showNotice));
    }
    byId("notices").hidden = false;
    byId("no-notices").hidden = state.notices.length > 0;
    const sections = state.chapters.map(showChapter);
    const box = byId("chapters");
    sections.forEach((section, i) => { if (box.children[i] !== section) box.insertBefore(section, box.children[i] ?? null); });
    while (box.children.length > sections.length) box.lastElementChild.remove();
  };

  // Asking -------------------------------------------------------------------------------------------------------
  let version = "";
  const pulse = (kind) => { byId("pulse").className = kind; };
  const ask = async () => {
    try {
      const answer = await fetch("/state?after=" + encodeURIComponent(version), { cache: "no-store" });
      if (answer.status === 200) {
        const state = await answer.json();
        version = state.version;
        if (state.problem) {
          byId("standing").textContent = state.problem;
          byId("standing").hidden = false;
        } else show(state);
        pulse(state.running ? "running" : "");
      }
    } catch {
      pulse("lost");
      byId("standing").textContent = "The server of this page has stopped: what is shown stays as it is.";
      byId("standing").hidden = false;
      version = "";
    }
    setTimeout(ask, EVERY);
  };
  ask();
})();
