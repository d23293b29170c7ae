// The samples of one run, or of two side by side. Files beside the page are loaded as scripts of one call each, whose
// argument is JSON in a string. Only keys that the page itself lists are ever loaded, and text is only set as text.
(() => {
  "use strict";

  const ROW = 36; // px, as in the style sheet
  const SPARE = 10; // rows drawn beyond what is seen
  const byId = (id) => document.getElementById(id);
  const known = new Map(JSON.parse(byId("data").textContent).runs.map((run) => [run.key, run]));
  const list = byId("list");
  const view = byId("window");
  const CHANGES = {
    one: [["", "all"], ["l", "lost"], ["w", "won"], ["f", "failed"], ["c", "same score"]],
    two: [["t", "turned"], ["l", "got worse"], ["w", "got better"], ["f", "not scored in one"], ["c", "same score"],
      ["o", "asked in one run only"], ["", "all"]],
  };
  const WORDS = {
    one: { l: "Lost", w: "Won", f: "Failed", c: "Same" },
    two: { l: "Worse", w: "Better", f: "Failed", c: "Same", o: "One only" },
  };
  const KINDS = { l: "lost", w: "won", f: "failed", c: "changed", o: "changed" };

  const runs = new Map(); // key → columns
  const texts = new Map(); // "key number" → texts
  const waiting = new Map(); // address → promise
  let rows = []; // {guard, id, tags, excerpt, a, b, change}: a and b are row numbers in the runs, or -1
  let haystacks = []; // what is searched, made when the rows are, so that the first search is as quick as any other
  let matches = [];
  let active = -1; // place in `matches`
  let first = -1, last = -1; // what is drawn
  let turn = 0; // so that a slow answer to an old choice is not drawn over a new one

  globalThis.harnessRun = (key, json) => runs.set(key, JSON.parse(json));
  globalThis.harnessTexts = (key, number, json) => texts.set(`${key} ${number}`, JSON.parse(json));

  function load(address) {
    if (!waiting.has(address)) {
      waiting.set(address, new Promise((done, fail) => {
        const script = document.createElement("script");
        script.src = address;
        script.onload = done;
        script.onerror = () => { waiting.delete(address); fail(new Error(`${address} is not there or cannot be read`)); };
        document.head.append(script);
      }));
    }
    return waiting.get(address);
  }

  const run = async (key) => {
    await load(`data/${encodeURIComponent(key)}.js`);
    return runs.get(key);
  };

  const textsOf = async (key, sample) => {
    const size = runs.get(key).texts;
    const number = Math.floor(sample / size);
    await load(`data/${encodeURIComponent(key)}/${number}.js`);
    return texts.get(`${key} ${number}`)[sample % size];
  };

  // ---------------------------------------------------------------- rows

  const value = (score) => (typeof score === "number" ? String(score) : score ?? "–");

  function rowsOf(columns, side) {
    const sets = columns.guards.map((guard, index) => `${guard}\n${columns.digests[index]}`);
    const tags = columns.tags.map((numbers) => numbers.map((tag) => columns.tagNames[tag]).join(" · "));
    return columns.of.map((sample, index) => ({
      guard: columns.guards[columns.guard[index]],
      set: sets[columns.guard[index]],
      higher: columns.higher[columns.guard[index]],
      id: columns.ids[sample],
      tags: tags[sample],
      excerpt: columns.excerpts[sample],
      a: side === "a" ? index : -1,
      b: side === "b" ? index : -1,
      change: columns.change[index],
    }));
  }

  function joined(a, b) {
    const found = rowsOf(a, "a");
    const places = new Map(); // set → id → place: nothing is joined for each row, which is what would take long
    found.forEach((row, index) => {
      if (!places.has(row.set)) places.set(row.set, new Map());
      places.get(row.set).set(row.id, index);
    });
    for (const row of rowsOf(b, "b")) {
      const index = places.get(row.set)?.get(row.id);
      if (index === undefined) found.push(row);
      else found[index].b = row.b;
    }
    for (const row of found) row.change = row.a < 0 || row.b < 0 ? "o" : turned(a.after[row.a], b.after[row.b], row.higher);
    return found;
  }

  function turned(before, after, higher) {
    if (typeof before !== "number" || typeof after !== "number") return before === "tied" && after === "tied" ? "c" : "f";
    if (before === after) return "c";
    return after > before === higher ? "w" : "l";
  }

  function filter() {
    const terms = byId("query").value.toLowerCase().split(/\s+/).filter(Boolean);
    const guard = byId("guard").value;
    const change = byId("change").value;
    matches = [];
    for (let i = 0; i < rows.length; i += 1) {
      const row = rows[i];
      if (guard && row.guard !== guard) continue;
      if (change === "t" ? row.change !== "l" && row.change !== "w" : change && row.change !== change) continue;
      if (terms.length && !terms.every((term) => haystacks[i].includes(term))) continue;
      matches.push(i);
    }
    active = matches.length ? 0 : -1;
    byId("space").style.height = `${matches.length * ROW}px`;
    list.scrollTop = 0;
    const count = (number) => number.toLocaleString("en");
    byId("found").textContent = matches.length
      ? `${count(matches.length)} of ${count(rows.length)} rows`
      : rows.length ? "No sample matches. Clear the search or choose other filters." : "No sample of this run may be shown.";
    draw(true);
  }

  // ---------------------------------------------------------------- the list

  function draw(anew) {
    const start = Math.max(0, Math.floor(list.scrollTop / ROW) - SPARE);
    const end = Math.min(matches.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + SPARE);
    if (!anew && start === first && end === last) return;
    first = start;
    last = end;
    view.style.transform = `translateY(${start * ROW}px)`;
    const drawn = [];
    for (let place = start; place < end; place += 1) drawn.push(option(place));
    view.replaceChildren(...drawn);
    mark();
  }

  function span(name, text) {
    const node = document.createElement("span");
    node.className = name;
    node.textContent = text;
    return node;
  }

  function option(place) {
    const row = rows[matches[place]];
    const two = Boolean(byId("b").value);
    const node = document.createElement("div");
    node.id = `o${place}`;
    node.className = "row";
    node.setAttribute("role", "option");
    node.setAttribute("aria-setsize", matches.length);
    node.setAttribute("aria-posinset", place + 1);
    node.append(
      span(`change ${KINDS[row.change]}`, WORDS[two ? "two" : "one"][row.change]),
      span("id", row.id), span("excerpt", row.excerpt), span("guard", row.guard), span("scores", scores(row, two)),
    );
    return node;
  }

  function scores(row, two) {
    const a = runs.get(byId("a").value);
    if (!two) return `${value(a.before[row.a])} → ${value(a.after[row.a])}`;
    const b = runs.get(byId("b").value);
    return `${row.a < 0 ? "–" : value(a.after[row.a])} | ${row.b < 0 ? "–" : value(b.after[row.b])}`;
  }

  function mark() {
    for (const node of view.children) node.setAttribute("aria-selected", String(node.id === `o${active}`));
    if (byId(`o${active}`)) list.setAttribute("aria-activedescendant", `o${active}`);
    else list.removeAttribute("aria-activedescendant");
  }

  function go(place) {
    if (!matches.length) return;
    active = Math.min(matches.length - 1, Math.max(0, place));
    const top = active * ROW;
    if (top < list.scrollTop) list.scrollTop = top;
    if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
    draw(false);
    mark();
  }

  function move(event) {
    const page = Math.max(1, Math.floor(list.clientHeight / ROW) - 1);
    const steps = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, PageDown: page, PageUp: -page };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in steps) go(active + steps[event.key]);
    else if (event.key === "Home") go(0);
    else if (event.key === "End") go(matches.length - 1);
    else if (event.key === "Enter" || event.key === " ") read();
    else return;
    event.preventDefault();
  }

  // ---------------------------------------------------------------- one sample

  function part(title, text) {
    if (!text) return [];
    const head = document.createElement("h4");
    head.textContent = title;
    const body = document.createElement("pre");
    body.textContent = text;
    body.tabIndex = 0;
    return [head, body];
  }

  async function read() {
    if (active < 0) return;
    const row = rows[matches[active]];
    const mine = (turn += 1);
    const sides = ["a", "b"].filter((side) => row[side] >= 0).map((side) => [byId(side).value, row[side]]);
    try {
      const found = await Promise.all(sides.map(([key, index]) => textsOf(key, runs.get(key).of[index])));
      if (mine === turn) tell(row, sides, found);
    } catch (error) {
      alarm(error.message);
    }
  }

  function tell(row, sides, found) {
    byId("detail-title").textContent = row.id;
    const tags = document.createElement("p");
    tags.className = "tags";
    tags.textContent = [row.guard, row.tags].filter(Boolean).join(" · ");
    const nodes = [tags, ...part("Prompt", found[0][0]), ...part("Expected", found[0][1])];
    const baselines = new Set(found.map((texts) => texts[2]));
    sides.forEach(([key, index], place) => {
      const columns = runs.get(key);
      const [, , baseline, candidate, missing] = found[place];
      const name = known.get(key).name;
      if (place === 0 || baselines.size > 1) {
        nodes.push(...part(`Baseline of ${name}: ${value(columns.before[index])}`, baseline));
      }
      nodes.push(...part(`${name}: ${value(columns.after[index])}`, candidate || "(no answer)"));
      nodes.push(...part("Not scored", missing.join("\n")));
    });
    byId("detail-body").replaceChildren(...nodes);
    byId("detail").scrollTop = 0;
  }

  // ---------------------------------------------------------------- which runs

  function alarm(text) {
    byId("alarm").textContent = text;
    byId("alarm").hidden = !text;
  }

  const label = (one) => `${one.when} · ${one.name} · ${one.verdict}`;

  function options(select, pairs, chosen) {
    select.replaceChildren(...pairs.map(([key, text]) => new Option(text, key, false, key === chosen)));
  }

  function cell(given, one) {
    const node = document.createElement("td");
    node.setAttribute("role", "cell");
    node.dataset.label = one.name;
    if (!given) {
      node.textContent = "–";
      return node;
    }
    const [, outcome, word, difference, interval] = given;
    node.append(span(`outcome ${outcome}`, word), ` ${difference} `, span("interval", interval));
    return node;
  }

  function tellGuards(a, b) {
    byId("name-a").textContent = `${a.name} (${a.verdict})`;
    byId("name-b").textContent = b ? `${b.name} (${b.verdict})` : "";
    byId("name-b").hidden = !b;
    const labels = [...new Set([...a.guards, ...(b ? b.guards : [])].map((guard) => guard[0]))];
    byId("guard-rows").replaceChildren(...labels.map((text) => {
      const line = document.createElement("tr");
      line.setAttribute("role", "row");
      const head = document.createElement("th");
      head.scope = "row";
      head.setAttribute("role", "rowheader");
      head.append(span("label", text));
      const of = (one) => cell(one.guards.find((guard) => guard[0] === text), one);
      line.append(head, of(a), ...(b ? [of(b)] : []));
      return line;
    }));
    byId("guards").hidden = false;
  }

  async function show() {
    const [a, b] = [byId("a").value, byId("b").value];
    const mine = (turn += 1);
    alarm("");
    byId("found").textContent = "Loading …";
    try {
      const found = await Promise.all([a, b].filter(Boolean).map(run));
      if (mine !== turn) return;
      rows = b ? joined(...found) : rowsOf(found[0], "a");
      haystacks = rows.map((row) => `${row.id}\n${row.guard}\n${row.tags}\n${row.excerpt}`.toLowerCase());
      options(byId("guard"), [["", "All guards"], ...[...new Set(rows.map((row) => row.guard))].map((name) => [name, name])], byId("guard").value);
      tellGuards(known.get(a), known.get(b));
      byId("detail-title").textContent = "No sample chosen";
      byId("detail-body").replaceChildren();
      filter();
    } catch (error) {
      alarm(error.message);
      byId("found").textContent = "";
    }
  }

  function chosen() {
    options(byId("change"), CHANGES[byId("b").value ? "two" : "one"], "");
    if (byId("b").value) byId("change").value = "t";
    const b = byId("b").value;
    history.replaceState(null, "", `#a=${byId("a").value}${b ? `&b=${b}` : ""}`);
    return show();
  }

  function fromAddress() {
    const given = new URLSearchParams(location.hash.slice(1));
    const keys = [...known.keys()];
    if (!keys.length) return alarm("No run could be read; the list of runs says why.");
    const a = known.has(given.get("a")) ? given.get("a") : keys[0];
    const b = known.has(given.get("b")) ? given.get("b") : "";
    options(byId("a"), [...known.values()].map((one) => [one.key, label(one)]), a);
    options(byId("b"), [["", "nothing"], ...[...known.values()].map((one) => [one.key, label(one)])], b);
    return chosen();
  }

  function shortcut(event) {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      byId("query").focus();
    }
  }

  let frame = 0; // letters that come within one frame are searched for together
  byId("query").addEventListener("input", () => {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(filter);
  });
  for (const id of ["guard", "change"]) byId(id).addEventListener("change", filter);
  for (const id of ["a", "b"]) byId(id).addEventListener("change", chosen);
  list.addEventListener("scroll", () => requestAnimationFrame(() => draw(false)), { passive: true });
  list.addEventListener("keydown", move);
  list.addEventListener("click", (event) => {
    const node = event.target.closest(".row");
    if (!node) return;
    go(Number(node.id.slice(1)));
    read();
  });
  addEventListener("resize", () => draw(true));
  addEventListener("hashchange", fromAddress);
  document.addEventListener("keydown", shortcut);
  fromAddress();
})();
