// Search, filter and choice of two runs. The table is in the page; this only hides rows and makes an address.
(() => {
  "use strict";

  const byId = (id) => document.getElementById(id);
  const rows = [...byId("rows").children];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const boxes = rows.map((row) => row.querySelector("input"));
  const query = byId("query");
  const link = byId("compare");
  let chosen = []; // at most two, the one chosen first before the other

  function filter() {
    const terms = query.value.toLowerCase().split(/\s+/).filter(Boolean);
    const verdict = document.querySelector('input[name="verdict"]:checked').value;
    let shown = 0;
    rows.forEach((row, index) => {
      const fits = (!verdict || row.dataset.verdict === verdict) && terms.every((term) => texts[index].includes(term));
      row.hidden = !fits;
      shown += fits;
    });
    const count = (number) => number.toLocaleString("en");
    byId("found").textContent = shown ? `${count(shown)} of ${count(rows.length)} runs` : "No run matches. Clear the search.";
  }

  function choose(event) {
    const box = event.target.closest('input[type="checkbox"]');
    if (!box) return;
    chosen = chosen.filter((key) => key !== box.value);
    if (box.checked) chosen.push(box.value);
    if (chosen.length > 2) chosen.shift();
    boxes.forEach((other) => (other.checked = chosen.includes(other.value)));
    link.hidden = chosen.length < 2;
    // The older one goes first: rows are the newest first.
    const order = boxes.map((other) => other.value).filter((key) => chosen.includes(key)).reverse();
    link.href = `compare.html#a=${order[0]}&b=${order[1]}`;
  }

  function shortcut(event) {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "checkbox";
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      query.focus();
    }
  }

  query.addEventListener("input", filter);
  byId("filters").querySelector("fieldset").addEventListener("change", filter);
  byId("rows").addEventListener("change", choose);
  document.addEventListener("keydown", shortcut);
  document.documentElement.classList.add("scripted");
  byId("filters").hidden = false;
  boxes.forEach((box) => (box.checked = false));
  filter();
})();
