// Shows one item after another and sends each answer to the server that the page came from. Writes text nodes only.
(() => {
  "use strict";

  const byId = (id) => document.getElementById(id);
  const { choices, sides, token } = JSON.parse(byId("data").textContent);
  let current = null; // id of the item on the screen
  let busy = false; // an answer is under way; a second key press must not answer the next item unseen

  async function ask(path, body) {
    const options = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
    options.headers = { "Content-Type": "application/json", "X-Page-Token": token };
    const response = await fetch(path, options);
    const answer = await response.json();
    if (!response.ok && !answer.state) throw new Error(answer.error || `the server says ${response.status}`);
    return answer;
  }

  function pre(text) {
    const node = document.createElement("pre");
    node.tabIndex = 0;
    node.textContent = text;
    return node;
  }

  function field([title, text]) {
    const section = document.createElement("section");
    const heading = document.createElement("h3");
    section.className = "block";
    heading.textContent = title[0].toUpperCase() + title.slice(1);
    section.append(heading, pre(text));
    return section;
  }

  function say(text) {
    byId("message").textContent = text;
    byId("message").hidden = text === "";
  }

  function show({ state, error }) {
    const { done, total, undo, item } = state;
    current = item ? item.id : null;
    byId("progress").max = Math.max(total, 1);
    byId("progress").value = done;
    byId("count").textContent = `${done.toLocaleString("en")} of ${total.toLocaleString("en")}`;
    byId("undo").disabled = !undo;
    byId("item").hidden = !item;
    byId("end").hidden = Boolean(item);
    say(error || "");
    if (item) write(item);
    else byId("finish").focus();
  }

  function write(item) {
    byId("fields").replaceChildren(...item.fields.map(field));
    sides.forEach((side, index) => byId(side).replaceChildren(...item.outputs[index].map(pre)));
    window.scrollTo(0, 0);
    byId("work").focus({ preventScroll: true });
  }

  async function send(path, body) {
    if (busy) return;
    busy = true;
    try {
      show(await ask(path, body));
    } catch (error) {
      say(`Not stored (${error.message}). Is the command still running? Reload the page to go on.`);
    } finally {
      busy = false;
    }
  }

  const choose = (index) => {
    if (current && choices[index]) send("/api/answer", { item: current, answer: choices[index].answer });
  };
  const undo = () => byId("undo").disabled || send("/api/undo", {});
  const help = () => (byId("help").open ? byId("help").close() : byId("help").showModal());

  function keyed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.key === "?") return void (event.preventDefault(), help());
    if (byId("help").open) return;
    // In a text that scrolls, the arrows scroll.
    const scrolls = event.target.tagName === "PRE" && event.target.scrollHeight > event.target.clientHeight;
    const index = choices.findIndex((c) => c.key === event.key || (!scrolls && c.arrowKey && c.arrowKey === event.key));
    if (index >= 0) return void (event.preventDefault(), choose(index));
    if (event.key === "u") undo();
  }

  async function finish() {
    try {
      await ask("/api/finish", {});
      byId("end").replaceChildren(document.createTextNode("Done. You may close this page."));
      byId("undo").disabled = true;
    } catch (error) {
      say(`The command is not running any more (${error.message}); everything answered is stored.`);
    }
  }

  document.addEventListener("keydown", keyed);
  document.querySelectorAll(".choice").forEach((b) => b.addEventListener("click", () => choose(Number(b.dataset.choice))));
  byId("undo").addEventListener("click", undo);
  byId("open-help").addEventListener("click", help);
  byId("finish").addEventListener("click", finish);
  send("/api/state");
})();
