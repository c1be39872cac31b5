"use strict";
(() => {
  const root = document.documentElement;
  const remember = (key, value) => { try { localStorage.setItem(key, value); } catch { /* private mode */ } };
  const recall = (key) => { try { return localStorage.getItem(key); } catch { return null; } };

  // Theme: the reader's choice, or the system's.
  const themes = ["auto", "light", "dark"];
  const button = document.getElementById("theme");
  const setTheme = (theme) => {
    if (theme === "auto") root.removeAttribute("data-theme");
    else root.setAttribute("data-theme", theme);
    button.textContent = `◐ ${theme}`;
    button.setAttribute("aria-label", `Theme: ${theme}`);
    remember("memroute-theme", theme);
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    const now = root.getAttribute("data-theme") || "auto";
    setTheme(themes[(themes.indexOf(now) + 1) % themes.length]);
  });
  const saved = recall("memroute-theme");
  if (themes.includes(saved)) setTheme(saved);

  // The section in view, marked in the navigation.
  const links = new Map([...document.querySelectorAll("nav ul a")].map((a) => [a.hash.slice(1), a]));
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const link = links.get(entry.target.id);
      if (!link) continue;
      if (entry.isIntersecting) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }, { rootMargin: "-30% 0px -65% 0px" });
  for (const section of document.querySelectorAll("main > section[id]")) watcher.observe(section);

  const list = document.getElementById("list");
  if (!list) return;

  // Scenarios: filters live in the address, so that a view can be linked.
  const agents = JSON.parse(list.dataset.agents);
  const categories = JSON.parse(list.dataset.categories);
  const places = (text) => new Set(text === "" ? [] : text.split(",").map(Number));
  const cards = [...list.children].map((element) => ({
    element,
    difficulty: element.dataset.d,
    domain: element.dataset.o,
    gold: places(element.dataset.g),
    answers: element.dataset.p.split("|").map(places),
    verdicts: element.dataset.v,
    text: null,
  }));
  const form = document.getElementById("filters");
  const count = document.getElementById("count");
  const extra = document.getElementById("extra");
  const clear = document.getElementById("clear");
  const openAll = document.getElementById("open-all");
  const nothing = document.getElementById("nothing");
  const fields = ["q", "agent", "verdict", "category", "difficulty", "domain"];
  const linked = ["labels", "right", "missed", "spurious"];
  let state = {};

  const textOf = (card) => {
    if (card.text === null) {
      card.text = [...card.element.querySelectorAll(".t, .sid")]
        .map((node) => node.textContent).join("\n").toLowerCase();
    }
    return card.text;
  };
  const letter = { partial: "p", wrong: "w", malformed: "m", failed: "f" };
  const isRight = (v) => v === "e";
  const matchesVerdict = (wanted, verdicts) => {
    const given = [...verdicts].filter((v) => v !== "-");
    if (wanted === "right") return given.some(isRight);
    if (wanted === "not-right") return given.some((v) => !isRight(v));
    if (wanted === "split") return given.some(isRight) && !given.every(isRight);
    return given.includes(letter[wanted]);
  };
  const matches = (card) => {
    const only = agents.indexOf(state.agent);
    const at = only < 0 ? agents.map((_, i) => i) : [only];
    const asked = at.filter((i) => card.verdicts[i] !== "-");
    if (only >= 0 && asked.length === 0) return false;
    if (state.difficulty && card.difficulty !== state.difficulty) return false;
    if (state.domain && card.domain !== state.domain) return false;
    const none = categories.length - 1;
    if (state.labels) {
      const size = card.gold.has(none) ? categories[none] : String(card.gold.size);
      if (size !== state.labels) return false;
    }
    if (state.verdict) {
      const seen = state.verdict === "split" ? card.verdicts : asked.map((i) => card.verdicts[i]).join("");
      if (!matchesVerdict(state.verdict, seen)) return false;
    }
    const place = (key) => categories.indexOf(state[key]);
    if (state.category) {
      const c = place("category");
      if (!card.gold.has(c) && !asked.some((i) => card.answers[i].has(c))) return false;
    }
    const fits = (i) => card.verdicts[i] !== "f"
      && (!state.right || (card.gold.has(place("right")) && card.answers[i].has(place("right"))))
      && (!state.missed || (card.gold.has(place("missed")) && !card.answers[i].has(place("missed"))))
      && (!state.spurious || (!card.gold.has(place("spurious")) && card.answers[i].has(place("spurious"))));
    if ((state.right || state.missed || state.spurious) && !asked.some(fits)) return false;
    return !state.q || state.q.toLowerCase().split(/\s+/).every((word) => textOf(card).includes(word));
  };

  const highlight = () => {
    if (!window.CSS || !CSS.highlights) return;
    CSS.highlights.delete("found");
    const words = (state.q || "").toLowerCase().split(/\s+/).filter((word) => word.length > 1);
    if (words.length === 0) return;
    const found = new Highlight();
    for (const card of cards) {
      if (card.element.hidden) continue;
      for (const node of card.element.querySelectorAll(".t, .sid, .preview")) {
        const piece = node.firstChild;
        if (!piece || piece.nodeType !== Node.TEXT_NODE) continue;
        const text = piece.data.toLowerCase();
        if (text.length !== piece.data.length) continue;
        for (const word of words) {
          for (let i = text.indexOf(word); i >= 0; i = text.indexOf(word, i + word.length)) {
            const range = new Range();
            range.setStart(piece, i);
            range.setEnd(piece, i + word.length);
            found.add(range);
          }
        }
      }
    }
    CSS.highlights.set("found", found);
  };

  const show = () => {
    let shown = 0;
    for (const card of cards) {
      const visible = matches(card);
      card.element.hidden = !visible;
      if (visible) shown += 1;
    }
    const active = [...fields, ...linked].filter((key) => state[key]);
    count.textContent = active.length
      ? `${shown} of ${cards.length} scenarios` : `${cards.length} scenarios`;
    extra.replaceChildren(...linked.filter((key) => state[key]).map((key) => {
      const token = document.createElement("button");
      token.type = "button";
      token.className = "token";
      token.textContent = `${key}: ${state[key]} ×`;
      token.setAttribute("aria-label", `Remove the filter ${key}: ${state[key]}`);
      token.addEventListener("click", () => update({ ...state, [key]: "" }));
      return token;
    }));
    clear.hidden = active.length === 0;
    nothing.hidden = shown > 0;
    for (const key of fields) form.elements[key].value = state[key] || "";
    highlight();
  };
  const update = (next) => {
    state = next;
    const query = new URLSearchParams();
    for (const key of [...fields, ...linked]) if (state[key]) query.set(key, state[key]);
    const hash = query.size ? `#show?${query}` : "#scenarios";
    try { history.replaceState(null, "", hash); } catch { /* some embeddings forbid it */ }
    show();
  };
  const read = () => {
    const next = { ...state };
    for (const key of fields) next[key] = form.elements[key].value;
    next.q = next.q.trim();
    return next;
  };
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => {
    const typed = form.elements.q.value;
    update(read());
    form.elements.q.value = typed;
  });
  const reset = () => { update({}); form.elements.q.focus(); };
  clear.addEventListener("click", reset);
  document.querySelector(".clear-too").addEventListener("click", reset);
  openAll.addEventListener("click", () => {
    const visible = cards.filter((card) => !card.element.hidden);
    const open = visible.some((card) => !card.element.open);
    for (const card of visible) card.element.open = open;
    openAll.textContent = open ? "Close all shown" : "Open all shown";
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      form.elements.q.focus();
    }
  });

  // Addresses: #show?… is a filter, #s-… a scenario.
  const follow = () => {
    const hash = location.hash;
    if (hash.startsWith("#show?")) {
      const query = new URLSearchParams(hash.slice(6));
      const next = {};
      for (const key of [...fields, ...linked]) if (query.get(key)) next[key] = query.get(key);
      state = next;
      show();
      document.getElementById("scenarios").scrollIntoView();
      return;
    }
    if (!hash.startsWith("#s-")) return;
    const card = cards.find(({ element }) => element.id === hash.slice(1));
    if (!card) return;
    if (!matches(card)) { state = {}; show(); }
    for (const { element } of cards) element.classList.toggle("target", element === card.element);
    card.element.open = true;
    card.element.scrollIntoView();
    card.element.querySelector("summary").focus({ preventScroll: true });
  };
  form.hidden = false;
  window.addEventListener("hashchange", follow);
  show();
  follow();
})();
