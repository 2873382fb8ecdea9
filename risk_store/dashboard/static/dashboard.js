// The page is drawn by the server and its address says all of its state. This fetches it again, swaps what changed, and
// follows links within the page the same way. Without it the page works, and loads itself anew each half minute.
"use strict";
(() => {
  const root = document.documentElement, SLOW_MS = 5000;
  let etag = null, timer = 0, lost = 0, loading = null;

  const saved = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  const asked = () => new URLSearchParams(location.search).get("theme");
  const applyTheme = () => { const theme = asked() || saved(); if (theme) root.dataset.theme = theme; };
  applyTheme();

  const refresh = () => Number(document.body.dataset.refresh);
  const pill = (kind, text) => {
    const shown = document.getElementById("pill");
    if (shown && shown.textContent !== text) { shown.className = `pill ${kind}`; shown.textContent = text; }
  };
  const busy = () => document.hidden || document.querySelector(".crossed") || !getSelection().isCollapsed;

  function swap(html) {
    const next = new DOMParser().parseFromString(html, "text/html");
    if (!next.getElementById("pill")) return false;
    const open = [...document.querySelectorAll("details[open]")].map((each) => each.id);
    const focus = document.activeElement && (document.activeElement.id || document.activeElement.getAttribute("href"));
    const scrolled = [...document.querySelectorAll(".scroll")].map((each) => each.scrollLeft);
    document.title = next.title;
    document.body.dataset.refresh = next.body.dataset.refresh;
    document.body.replaceChildren(...next.body.childNodes);
    open.forEach((id) => { const each = document.getElementById(id); if (each) each.open = true; });
    document.querySelectorAll(".scroll").forEach((each, i) => { each.scrollLeft = scrolled[i] || 0; });
    if (focus) (document.getElementById(focus) || document.querySelector(`a[href="${CSS.escape(focus)}"]`))?.focus();
    applyTheme();
    return true;
  }

  async function load(followed) {
    clearTimeout(timer);
    if (loading) loading.abort();
    const mine = loading = new AbortController(), late = setTimeout(() => mine.abort(), SLOW_MS);
    try {
      const headers = etag && !followed ? { "If-None-Match": etag } : {};
      const answer = await fetch(location.href, { headers, cache: "no-store", signal: mine.signal });
      const html = answer.status === 304 ? null : await answer.text();
      if (mine !== loading) return;
      lost = 0;
      const tag = answer.headers.get("etag");
      if (html !== null && (followed || !tag || tag !== etag)) {
        if (!swap(html)) {  // a page that only says what went wrong
          if (followed) location.reload(); else pill("lost", `error ${answer.status}`);
          return;
        }
        etag = tag;
      }
      if (refresh()) pill(...(document.querySelector(".banner.bad") ? ["lost", "trouble"] : ["live", "live"]));
    } catch {
      if (mine !== loading) return;
      lost ||= Date.now();
      pill("lost", `no answer for ${Math.max(1, Math.round((Date.now() - lost) / 1000))} s`);
    } finally {
      clearTimeout(late);
      if (mine === loading) { loading = null; next(); }
    }
  }

  function next() {
    clearTimeout(timer);
    if (refresh()) timer = setTimeout(() => { if (!busy()) return load(false); pill("paused", "held"); next(); }, refresh() * 1000);
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.soft");
    if (!link || event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
    event.preventDefault();
    const to = new URL(link.href);
    if (link.id === "theme") {
      const now = root.dataset.theme || (matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark");
      const theme = now === "light" ? "dark" : "light";
      try { localStorage.setItem("theme", theme); } catch { /* kept in the address alone */ }
      to.searchParams.set("theme", theme);
    }
    history[link.id ? "replaceState" : "pushState"](null, "", to);
    applyTheme();
    load(true);
  });
  addEventListener("popstate", () => load(true));
  document.addEventListener("visibilitychange", () => { if (!document.hidden && refresh()) load(false); });

  // The crosshair: the bucket under the pointer, or the one that the arrow keys chose.
  function cross(chart, index) {
    const points = JSON.parse(chart.dataset.points), plot = chart.querySelector(".plot"), tip = chart.querySelector(".tip");
    const at = Math.min(Math.max(index, 0), points.length - 1), x = (at + 0.5) / points.length;
    const line = chart.querySelector(".cross");
    line.setAttribute("x1", `${x * 100}%`); line.setAttribute("x2", `${x * 100}%`);
    tip.textContent = points[at].join("\n");
    chart.classList.add("crossed");
    chart.dataset.at = at;
    const wide = plot.getBoundingClientRect().width, left = x * wide + 6;
    tip.style.left = `${left + tip.offsetWidth > wide ? x * wide - tip.offsetWidth - 6 : left}px`;
  }
  const chartOf = (event) => event.target.closest && event.target.closest(".chart");
  document.addEventListener("pointermove", (event) => {
    const chart = chartOf(event);
    if (!chart) return;
    const box = chart.querySelector(".plot").getBoundingClientRect();
    if (event.clientX <= box.right)
      cross(chart, Math.floor((event.clientX - box.left) / box.width * JSON.parse(chart.dataset.points).length));
  });
  document.addEventListener("pointerout", (event) => {
    const chart = chartOf(event);
    if (chart && !chart.contains(event.relatedTarget)) chart.classList.remove("crossed");
  });
  document.addEventListener("keydown", (event) => {
    const chart = chartOf(event), step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!chart || !step) return;
    event.preventDefault();
    const last = JSON.parse(chart.dataset.points).length - 1;
    cross(chart, chart.dataset.at === undefined ? last : Number(chart.dataset.at) + step);
  });
  document.addEventListener("focusout", (event) => chartOf(event)?.classList.remove("crossed"));

  document.addEventListener("DOMContentLoaded", next);
})();
