// Asks for the page again every few seconds and puts the new numbers in the place of the old ones.
(() => {
  "use strict";

  const seconds = Number(document.body.dataset.seconds) || 5;
  const when = document.getElementById("when");

  // A section that its reader is in, by focus or by a selection, is left as it is until the reader leaves it.
  const inUse = (node) => {
    const selected = document.getSelection();
    const held = selected && !selected.isCollapsed && node.contains(selected.anchorNode);
    return held || (node.contains(document.activeElement) && document.activeElement !== document.getElementById("main"));
  };

  function replace(fresh) {
    const main = document.getElementById("main");
    const [old, made] = [[...main.children], [...fresh.getElementById("main").children]];
    made.forEach((node, index) => {
      const before = old[index];
      if (!before) main.append(document.adoptNode(node));
      else if (before.outerHTML !== node.outerHTML && !inUse(before)) before.replaceWith(document.adoptNode(node));
    });
    old.slice(made.length).forEach((node) => node.remove());
    document.body.className = fresh.body.className;
    when.textContent = fresh.getElementById("when").textContent;
    when.classList.remove("stale");
  }

  async function refresh() {
    if (!document.hidden) {
      try {
        const answer = await fetch(location.href, { cache: "no-store" });
        if (!answer.ok) throw new Error(answer.status);
        replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
      } catch {
        when.textContent = "The server does not answer; these numbers are old.";
        when.classList.add("stale");
      }
    }
    setTimeout(refresh, 1000 * seconds);
  }

  setTimeout(refresh, 1000 * seconds);
})();
