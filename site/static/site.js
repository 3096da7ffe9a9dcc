// Guesses that stay in the browser, and the search. Nothing is sent anywhere.
const ROOT = new URL(document.documentElement.dataset.content_root, location.href);
const KEPT = "mlscale guesses";

function kept() {
  try { return JSON.parse(localStorage.getItem(KEPT)) || {}; } catch { return {}; }
}

function keep(name, facts) {
  const all = kept();
  all[name] = { ...all[name], ...facts };
  try { localStorage.setItem(KEPT, JSON.stringify(all)); } catch { /* a browser that keeps nothing */ }
}

const told = (g) => `Your guess: ${g.value}, ${Math.round(100 * g.sure)} % sure that it is within ${g.within}`;
const right = (g) => Math.abs(g.value - g.truth) <= g.within * (1 + 1e-9);

function guesses() {
  for (const form of document.querySelectorAll("form.guess")) {
    const { name, within } = form.dataset;
    const show = () => {
      const g = kept()[name];
      if (!g) return;
      form.elements.value.value = g.value;
      form.elements.sure.value = g.sure;
      const open = g.truth !== undefined;
      for (const field of form.elements) field.disabled = open;
      form.querySelector("output").textContent = open ? `${told(g)}. The answer was shown, so it stays.` : `${told(g)}. It stays in this browser.`;
    };
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      keep(name, { value: +form.elements.value.value, sure: +form.elements.sure.value, within: +within });
      show();
    });
    show();
  }
  for (const box of document.querySelectorAll("details.answer")) {
    box.addEventListener("toggle", () => {
      const { name, truth } = box.dataset;
      const g = kept()[name];
      if (!box.open || !g) return;
      if (g.truth === undefined) keep(name, { truth: +truth });
      const now = kept()[name];
      box.querySelector("output").textContent = `${told(now)}: ${right(now) ? "right" : "not within it"}.`;
    });
  }
  for (const place of document.querySelectorAll("div.guesses")) {
    const shown = Object.entries(kept()).filter(([, g]) => g.truth !== undefined);
    if (!shown.length) continue;
    place.textContent = `${shown.length} guesses, ${shown.filter(([, g]) => right(g)).length} of them right; on average you were ${Math.round((100 * shown.reduce((sum, [, g]) => sum + g.sure, 0)) / shown.length)} % sure.`;
  }
}

// Words that say nothing about the page that is wanted; pagefind asks for all words of a question.
const EMPTY = new Set("a an and are can did do does for from how i in is it many me much must my need of on or say says should than that the there this to was we what when where which who why with you your".split(" "));

// What readers say, and what the book calls it.
const OURS = { users: "units", customers: "units", visitors: "units" };

async function engine() {
  const pagefind = await import(new URL("pagefind/pagefind.js", ROOT).href);
  await pagefind.options({ ranking: { pageLength: 0.2 } });   // chapters are long, and come first
  await pagefind.init();
  return pagefind;
}

async function find(pagefind, question) {
  const words = question.toLowerCase().split(/[^\p{L}\p{N}_-]+/u).filter(Boolean).map((w) => OURS[w] || w);
  let telling = words.filter((w) => !EMPTY.has(w));
  if (!telling.length) telling = words;
  let { results } = await pagefind.search(telling.join(" "));
  if (results.length < 3 && telling.length > 1) {   // some word is too many: each may be left out
    const rest = await Promise.all(telling.map((_, i) => pagefind.search(telling.filter((_, j) => j !== i).join(" "))));
    const best = new Map();
    for (const r of rest.flatMap((x) => x.results)) if (!(best.get(r.id)?.score >= r.score)) best.set(r.id, r);
    for (const r of results) best.delete(r.id);
    results = [...results, ...[...best.values()].sort((a, b) => b.score - a.score)];
  }
  return Promise.all(results.slice(0, 8).map((r) => r.data()));
}

function entry(page) {
  const parts = page.sub_results.slice().sort((a, b) => b.locations.length - a.locations.length);
  const part = parts[0] || page;
  const [item, link, text] = ["li", "a", "p"].map((tag) => document.createElement(tag));
  link.href = new URL(page.raw_url.replace(/^\//, "") + (/#.*$/.exec(part.url) || [""])[0], ROOT).href;
  link.textContent = part.title && part.title !== page.meta.title ? `${page.meta.title}: ${part.title}` : page.meta.title;
  text.innerHTML = part.excerpt || page.excerpt;   // pagefind's own markup of what we wrote
  item.append(link, text);
  return item;
}

function search() {
  const form = document.querySelector("#pst-search-dialog form");
  if (!form || location.protocol === "file:") return;   // there the form opens Sphinx's own search
  const input = form.querySelector("input"), list = document.createElement("ol");
  list.className = "found";
  list.setAttribute("aria-label", "pages found");
  form.after(list);
  let asked = 0, loading;
  input.addEventListener("input", async () => {
    const mine = ++asked;
    loading ??= engine();
    const pages = input.value.trim() ? await find(await loading, input.value) : [];
    if (mine === asked) {
      list.replaceChildren(...pages.map(entry));
      list.dataset.question = input.value;
    }
  });
  form.addEventListener("submit", (event) => {
    const first = list.querySelector("a");
    if (!first) return;
    event.preventDefault();
    location.href = first.href;
    form.closest("dialog").close();
  });
}

// The theme's buttons that open a chapter's companions have no name.
function name() {
  for (const button of document.querySelectorAll("nav li > details > summary")) {
    button.setAttribute("aria-label", `below ${button.closest("li").querySelector("a").textContent}`);
  }
}

document.addEventListener("DOMContentLoaded", () => { guesses(); search(); name(); });
