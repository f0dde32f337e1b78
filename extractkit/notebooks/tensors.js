// The tree of tensors, to search and to choose from. Branches are filled when they are opened, so
// that a list may be long.

const AT_ONCE = 200;

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function render({ model, el }) {
  const style = make("style");
  style.textContent = `
    .xk-tensors { font: 13px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
    .xk-tensors input[type=search] { font: inherit; color: inherit; background: transparent;
      border: 1px solid color-mix(in srgb, currentColor 40%, transparent); border-radius: 4px;
      padding: 2px 8px; width: min(24em, 100%); }
    .xk-tensors .tree { overflow: auto; max-height: 420px; margin: 6px 0; }
    .xk-tensors .inner { margin-left: 18px; }
    .xk-tensors summary { cursor: pointer; }
    .xk-tensors label { display: flex; flex-wrap: wrap; gap: 0 10px; align-items: baseline; }
    .xk-tensors .soft { opacity: .72; }
    .xk-tensors .why { color: #b3541e; }`;
  const search = make("input", { type: "search", placeholder: "Search", "aria-label": "Search" });
  const count = make("span", { class: "soft", role: "status" });
  const tree = make("div", { class: "tree" });
  const root = make("div", { class: "xk-tensors" }, style, search, " ", count, tree);
  el.append(root);

  const rows = model.get("rows");
  const chosen = () => new Set(model.get("chosen"));

  function leaf([key, shape, type, size, why], title) {
    const box = make("input", { type: "checkbox" });
    box.checked = chosen().has(key);
    box.disabled = Boolean(why);
    box.dataset.key = key;
    box.addEventListener("change", () => {
      const kept = model.get("chosen").filter((one) => one !== key);
      model.set("chosen", box.checked ? [...kept, key] : kept);
      model.save_changes();
    });
    const facts = [shape, type, size].filter(Boolean).join(" · ");
    const line = make("label", {}, box, make("bdi", {}, title));
    line.append(make("span", { class: "soft" }, facts));
    if (why) line.append(make("span", { class: "why" }, why));
    return line;
  }

  const pathOf = (key) => key.replace(":", "/:").split("/").filter(Boolean);
  const joined = (path) => path.join("/").replace("/:", ":");

  // Rows below a path: [the rest of the path, the row].
  function fill(into, below) {
    const groups = new Map();
    for (const [path, row] of below) {
      const part = path.length > 1 ? path[0] : "";
      if (!groups.has(part)) groups.set(part, []);
      groups.get(part).push([part ? path.slice(1) : path, row]);
    }
    for (const [part, inner] of groups) {
      if (part === "") {
        more(into, inner.map(([path, row]) => () => leaf(row, joined(path))));
        continue;
      }
      if (inner.length === 1) {
        into.append(leaf(inner[0][1], joined([part, ...inner[0][0]])));
        continue;
      }
      const held = make("div", { class: "inner" });
      const size = make("span", { class: "soft" }, ` ${inner.length.toLocaleString("en")}`);
      const branch = make("details", {}, make("summary", {}, make("bdi", {}, part), size), held);
      branch.addEventListener("toggle", () => {
        if (branch.open && !held.childElementCount) fill(held, inner);
      });
      into.append(branch);
    }
  }

  function more(into, lines) {
    into.append(...lines.slice(0, AT_ONCE).map((line) => line()));
    const rest = lines.slice(AT_ONCE);
    if (!rest.length) return;
    const button = make("button", { type: "button" }, `${rest.length.toLocaleString("en")} more`);
    button.addEventListener("click", () => {
      button.remove();
      more(into, rest);
    });
    into.append(button);
  }

  function draw() {
    const wanted = search.value.toLowerCase();
    const found = rows.filter((row) => row.join("\n").toLowerCase().includes(wanted));
    tree.replaceChildren();
    if (wanted) more(tree, found.map((row) => () => leaf(row, row[0])));
    else fill(tree, rows.map((row) => [pathOf(row[0]), row]));
    told(found.length);
  }

  function told(shown = rows.length) {
    const all = rows.length.toLocaleString("en");
    const some = shown === rows.length ? all : `${shown.toLocaleString("en")} of ${all}`;
    count.textContent = `${some} tensors, ${model.get("chosen").length} chosen`;
  }

  function changed() {
    const now = chosen();
    for (const box of tree.querySelectorAll("input[type=checkbox]"))
      box.checked = now.has(box.dataset.key);
    told();
  }

  search.addEventListener("input", draw);
  model.on("change:chosen", changed);
  draw();
  return () => model.off("change:chosen", changed);
}

export default { render };
