// What the page can do more with a script: numbers that stay fresh, times in the viewer's
// own zone, lists that can be narrowed and ticked at once, and a question before typed
// text is lost. Everything works without it.
"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (tag, attributes = {}, text = "") => {
    const e = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
    e.textContent = text;
    return e;
  };

  // Times
  const two = (n) => String(n).padStart(2, "0");
  const months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
  const clock = (d) => `${two(d.getHours())}:${two(d.getMinutes())}`;
  const day = (d) => `${d.getDate()} ${months[d.getMonth()]}`;
  function written(d, form) {
    if (form === "full") return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ${clock(d)}:${two(d.getSeconds())}`;
    const now = new Date();
    if (d.toDateString() === now.toDateString()) return `${clock(d)}:${two(d.getSeconds())}`;
    return d.getFullYear() === now.getFullYear() ? `${day(d)} ${clock(d)}` : `${day(d)} ${d.getFullYear()} ${clock(d)}`;
  }
  function localTimes(root) {
    for (const e of all("time[datetime]", root)) {
      const d = new Date(e.dateTime);
      if (Number.isNaN(d.getTime())) continue;
      e.title = `${e.textContent} on the server`;
      e.textContent = written(d, e.dataset.form);
    }
    for (const e of all("text[data-time]", root)) {
      const d = new Date(e.dataset.time);
      e.textContent = e.dataset.layout === "2 Jan" ? day(d) : clock(d);
    }
  }
  localTimes(document);
  const zone = document.getElementById("zone");
  const own = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (zone && own) zone.textContent = `your zone (${own})`;

  // Live: the main part of the page is fetched again while somebody can see it, and while
  // nothing in it is being used.
  function live(part) {
    const bar = document.getElementById("live-bar");
    const every = Number(part.dataset.live) * 1000;
    const address = new URL(location.href);
    address.searchParams.set("part", "1");
    address.hash = "";
    const said = make("span");
    const pause = make("button", { type: "button", class: "small", "aria-pressed": "false" }, "Pause");
    bar.replaceChildren(said, pause);
    let paused = false;
    let failed = 0;
    const tell = (text, lost = false) => { said.textContent = text; bar.classList.toggle("lost", lost); };
    tell(`Updated every ${part.dataset.live} seconds.`);
    pause.addEventListener("click", () => {
      paused = !paused;
      pause.textContent = paused ? "Go on" : "Pause";
      pause.setAttribute("aria-pressed", String(paused));
      tell(paused ? "Paused." : `Updated every ${part.dataset.live} seconds.`);
    });
    const busy = () => {
      const marked = getSelection();
      return document.hidden || paused || part.contains(document.activeElement) || part.matches(":has(details[open])") ||
        (marked && !marked.isCollapsed && part.contains(marked.anchorNode));
    };
    async function refresh() {
      if (busy()) return;
      try {
        const answer = await fetch(address, { headers: { Accept: "text/html" }, redirect: "error", signal: AbortSignal.timeout(4500) });
        if (!answer.ok) throw new Error(String(answer.status));
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
        if (busy()) return;
        localTimes(fresh);
        part.replaceChildren(...fresh.body.childNodes);
        failed = 0;
        tell(`Updated at ${written(new Date(), "short")}.`);
      } catch {
        failed++;
        if (failed > 1) tell("No answer from osm: what is shown may be old. Load the page again to log in or to see why.", true);
      }
    }
    setInterval(refresh, every);
    document.addEventListener("visibilitychange", refresh);
  }
  const part = document.querySelector("[data-live]");
  if (part && document.getElementById("live-bar")) live(part);

  // Lists: narrowed while one types, all ticked at once
  all("table[data-filter]").forEach((table, i) => {
    const rows = all("tbody tr", table);
    if (rows.length < 8) return;
    const id = `filter-${i}`;
    const box = make("p", { class: "table-filter" });
    const field = make("input", { type: "search", id, autocomplete: "off" });
    const found = make("span", { role: "status" });
    box.append(make("label", { for: id }, table.dataset.filter), field, found);
    table.before(box);
    field.addEventListener("keydown", (e) => { if (e.key === "Enter") e.preventDefault(); });
    field.addEventListener("input", () => {
      const wanted = field.value.toLowerCase();
      let shown = 0;
      for (const row of rows) {
        row.hidden = !row.textContent.toLowerCase().includes(wanted);
        if (!row.hidden) shown++;
      }
      found.textContent = wanted ? `${shown} of ${rows.length}` : "";
    });
  });
  for (const table of all("table[data-select]")) {
    const boxes = () => all(`tbody tr:not([hidden]) input[name="${table.dataset.select}"]`, table);
    const head = table.querySelector("thead .pick");
    const picked = table.closest("form").querySelector("[data-picked]");
    if (!head || boxes().length === 0) continue;
    const label = make("label");
    const whole = make("input", { type: "checkbox" });
    label.append(whole, make("span", { class: "unseen" }, "Choose all that are shown"));
    head.replaceChildren(label);
    const count = () => {
      const n = all(`input[name="${table.dataset.select}"]:checked`, table).length;
      whole.checked = n > 0 && n >= boxes().length;
      whole.indeterminate = n > 0 && !whole.checked;
      if (picked) picked.textContent = `(${n})`;
    };
    whole.addEventListener("change", () => { for (const b of boxes()) b.checked = whole.checked; count(); });
    table.addEventListener("change", (e) => { if (e.target !== whole) count(); });
    count();
  }

  // Forms: sent once, and not left by mistake
  let unsaved = false;
  for (const form of all("form[data-unsaved]")) {
    form.addEventListener("input", () => { unsaved = true; });
    form.addEventListener("submit", () => { unsaved = false; });
  }
  addEventListener("beforeunload", (e) => { if (unsaved) e.preventDefault(); });
  for (const form of all("form[data-once]")) {
    form.addEventListener("submit", (e) => {
      if (form.dataset.sent) { e.preventDefault(); return; }
      form.dataset.sent = "1";
    });
  }
  addEventListener("pageshow", () => { for (const form of all("form[data-sent]")) delete form.dataset.sent; });
  document.querySelector("[data-focus]")?.focus();
  document.querySelector(".menu [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  const place = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (place instanceof HTMLDetailsElement) place.open = true;
})();
