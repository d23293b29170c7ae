// What every page of ours is held to, as functions of the page that they run in. Each answers with a list of faults.
(() => {
  const rgb = (text) => (text.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const light = ([r, g, b]) => {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [x, y, z] = [r, g, b].map((v) => linear(v / 255));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = (node) => {
    for (let n = node; n; n = n.parentElement) {
      const colour = rgb(getComputedStyle(n).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const ratio = (one, other) => {
    const pair = [light(one), light(other)].sort((a, b) => b - a);
    return (pair[0] + 0.05) / (pair[1] + 0.05);
  };
  const told = (node) => node.outerHTML.replace(/\s+/g, " ").slice(0, 80);

  // Texts whose contrast with their ground is below 4.5:1, whatever their size.
  function faint() {
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const node = walker.currentNode.parentElement;
      const text = walker.currentNode.data.trim();
      if (!text || !node.checkVisibility() || node.closest("script, style, button[disabled]")) continue;
      const style = getComputedStyle(node);
      const contrast = ratio(rgb(node.closest("svg") ? style.fill : style.color), ground(node));
      if (contrast < 4.5) found.push(`${contrast.toFixed(2)} ${told(node)} ${text.slice(0, 40)}`);
    }
    return found;
  }

  const NATIVE = "a[href], button, input:not([type=hidden]), select, textarea, summary";
  const STOPS = `${NATIVE}, [tabindex]`;
  const usable = (node) =>
    node.checkVisibility({ visibilityProperty: true }) && !node.disabled && !node.closest("[inert]") &&
    (!node.hasAttribute("tabindex") || node.tabIndex >= 0 || node.matches(NATIVE));
  const modal = () => document.querySelector("dialog:modal") || document.body;
  const radios = (node) => (node.type === "radio" ? `radio ${node.name}` : node); // a group is one stop

  let reached = new Set();
  let ends = 0;

  const outlined = (node) => {
    const style = getComputedStyle(node);
    return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 &&
      ratio(rgb(style.outlineColor), ground(node.parentElement)) >= 3;
  };
  const faces = (node) => [node, ...[...(node.labels || [])].flatMap((label) => [label, ...label.children])];

  // Whether a point of it is on the screen with nothing before it.
  const uncovered = (node) =>
    faces(node).some((face) =>
      [...face.getClientRects()].some((box) => {
        const [left, right] = [Math.max(box.left, 0), Math.min(box.right, innerWidth)];
        const [top, bottom] = [Math.max(box.top, 0), Math.min(box.bottom, innerHeight)];
        if (right - left < 1 || bottom - top < 1) return false;
        return [0.1, 0.5, 0.9].some((part) => {
          const hit = document.elementFromPoint(left + part * (right - left), top + part * (bottom - top));
          return hit && (face.contains(hit) || hit.contains(face) && hit.closest("label"));
        });
      }),
    );

  // Called after each press of Tab. Its answer is null once the way has come round, which leads by the page itself.
  function stop() {
    const node = document.activeElement;
    if (!node || node === document.body) return (ends += 1) > 1 ? null : [];
    if (reached.has(radios(node))) return null;
    reached.add(radios(node));
    const faults = [];
    if (!faces(node).some(outlined)) faults.push(`shows no focus: ${told(node)}`);
    if (!uncovered(node)) faults.push(`has the focus and cannot be seen: ${told(node)}`);
    return faults;
  }

  function begin() {
    reached = new Set();
    ends = 0;
  }

  function unreached() {
    const missed = [...modal().querySelectorAll(STOPS)].filter((node) => usable(node) && !reached.has(radios(node)));
    const mouse = [...modal().querySelectorAll("*")].filter((node) =>
      node.checkVisibility() && getComputedStyle(node).cursor === "pointer" &&
      !node.closest(`${NATIVE}, label, [role=option]`));
    return [...missed.map((node) => `is not reached: ${told(node)}`), ...mouse.map((node) => `is for the mouse only: ${told(node)}`)];
  }

  const twice = () => {
    const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
    return ids.filter((id, index) => ids.indexOf(id) !== index);
  };

  globalThis.pageChecks = { faint, begin, stop, unreached, twice };
})();
