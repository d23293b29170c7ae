// Search, filters and paging of the sample list. Reads the JSON block, writes text nodes only, never HTML.
(() => {
  "use strict";

  const PAGE = 25;
  const byId = (id) => document.getElementById(id);
  const items = JSON.parse(byId("data").textContent).items;
  const list = byId("items");
  const template = byId("sample").content.firstElementChild;
  const query = byId("query");
  const guard = byId("guard");
  const tag = byId("tag");
  const words = { lost: "Lost", won: "Won", failed: "Failed", changed: "Changed" };

  let haystacks = null; // lower-cased once, on the first search
  let matches = items;
  let page = 0;

  const haystack = (item) =>
    [item.id, item.guard, item.tags.join(" "), item.prompt, item.target, item.reason]
      .concat(item.baseline.join(""), item.candidate.join(""))
      .join("\n")
      .toLowerCase();

  const change = () => document.querySelector('input[name="change"]:checked').value;

  function search() {
    const terms = query.value.toLowerCase().split(/\s+/).filter(Boolean);
    if (terms.length && !haystacks) haystacks = items.map(haystack);
    const wanted = change();
    return items.filter(
      (item, index) =>
        (!wanted || item.change === wanted) &&
        (!guard.value || item.guard === guard.value) &&
        (!tag.value || item.tags.includes(tag.value)) &&
        terms.every((term) => haystacks[index].includes(term)),
    );
  }

  function write(node, slot, text) {
    const place = node.querySelector(`[data-slot="${slot}"]`);
    place.textContent = text;
    place.hidden = text === "";
    return place;
  }

  function writeSide(node, side, parts) {
    const spans = node.querySelector(`[data-slot="${side}"]`).children;
    parts.forEach((part, index) => (spans[index].textContent = part));
  }

  function draw(item) {
    const node = template.cloneNode(true);
    write(node, "change", words[item.change]).classList.add(item.change);
    write(node, "id", item.id);
    write(node, "excerpt", item.prompt.slice(0, 160));
    write(node, "guard", item.guard);
    write(node, "before", item.scores[0]);
    write(node, "after", item.scores[1]);
    write(node, "tags", item.tags.join(" · "));
    write(node, "reason", item.reason);
    write(node, "prompt", item.prompt);
    write(node, "target", item.target).previousElementSibling.hidden = item.target === "";
    writeSide(node, "baseline", item.baseline);
    writeSide(node, "candidate", item.candidate);
    return node;
  }

  function show() {
    const start = page * PAGE;
    const shown = matches.slice(start, start + PAGE);
    list.replaceChildren(...shown.map(draw));
    list.start = start + 1;
    const count = (number) => number.toLocaleString("en");
    const pages = Math.max(1, Math.ceil(matches.length / PAGE));
    byId("found").textContent = matches.length
      ? `${count(matches.length)} of ${count(items.length)} samples`
      : "No sample matches. Clear the search or choose other filters.";
    byId("place").textContent = `Page ${count(page + 1)} of ${count(pages)}`;
    byId("previous").disabled = page === 0;
    byId("next").disabled = page + 1 >= pages;
    byId("pager").hidden = matches.length === 0;
  }

  function filter() {
    matches = search();
    page = 0;
    show();
  }

  function turn(step) {
    page += step;
    show();
    byId("samples").scrollIntoView();
    list.querySelector("summary").focus({ preventScroll: true });
  }

  function select(menu, value) {
    menu.value = value;
    if (menu.value !== value) menu.value = "";
  }

  function chooseSlice(event) {
    const tile = event.target.closest(".tile");
    if (!tile) return;
    query.value = "";
    document.querySelector('input[name="change"][value=""]').checked = true;
    select(guard, tile.dataset.guard);
    select(tag, tile.dataset.tag);
    filter();
  }

  function move(event) {
    const steps = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 };
    const summary = event.target.closest("summary");
    if (!summary || !(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
    const all = [...list.querySelectorAll(".item > details > summary")];
    const next = all[all.indexOf(summary) + steps[event.key]];
    if (!next) return;
    event.preventDefault();
    next.focus();
  }

  function shortcut(event) {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      query.focus();
    }
  }

  let timer = 0;
  query.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(filter, 60);
  });
  guard.addEventListener("change", filter);
  tag.addEventListener("change", filter);
  byId("filters").querySelector("fieldset").addEventListener("change", filter);
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  list.addEventListener("keydown", move);
  document.addEventListener("keydown", shortcut);
  document.addEventListener("click", chooseSlice);

  document.documentElement.classList.add("scripted");
  byId("filters").hidden = false;
  show();
})();
