"use strict";
(() => {
  const root = document.documentElement;
  const styles = JSON.parse(document.getElementById("styles").textContent);
  const tip = document.getElementById("tip");
  const figures = [];

  // Work in turn, each piece in a task of its own, so that the page keeps responding.
  const pending = [];
  let working = false;
  function later(work) {
    pending.push(work);
    if (!working) next();
  }
  const pause = () => new Promise((resume) => setTimeout(resume));
  async function next() {
    working = pending.length > 0;
    if (!working) return;
    await pause();
    try {
      await pending.shift()();
    } catch (error) {
      console.error(error);
    }
    next();
  }

  // ------------------------------------------------------------------ light and dark

  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () =>
    root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches;
  const toggle = document.getElementById("theme");
  function themed() {
    toggle.textContent = isDark() ? "Light" : "Dark";
    for (const figure of figures) if (figure.view) later(() => figure.embed());
  }
  toggle.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    themed();
  });
  prefersDark.addEventListener("change", themed);
  themed();

  // ------------------------------------------------------------------ values

  function half(bits) {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (1024 + fraction) * 2 ** (exponent - 25);
  }

  function decoded(cube) {
    if (!cube.array) {
      const bytes = Uint8Array.from(atob(cube.values.base64), (char) => char.charCodeAt(0));
      const kinds = { float16: Uint16Array, float32: Float32Array };
      const found = new kinds[cube.values.type](bytes.buffer);
      cube.array = cube.values.type === "float16" ? Float64Array.from(found, half) : found;
      delete cube.values.base64;
    }
    return cube.array;
  }

  // Rows for the chart, from the values of the chosen options.
  function rowsOf(figure, options) {
    const cube = figure.cubes[options.length ? options[0] : 0];
    const shape = cube.values.shape;
    const inner = options.slice(1);
    const own = shape.slice(inner.length);
    const fields = figure.fields;
    if (fields.length > 1) own.pop();
    const count = own.reduce((product, size) => product * size, 1);
    const texts = Object.entries(cube.texts);
    let start = 0;
    inner.forEach((option, axis) => {
      start = start * shape[axis] + option;
    });
    const held = count * fields.length;
    const values = decoded(cube).subarray(start * held, (start + 1) * held);
    const rows = [];
    const at = own.map(() => 0);
    for (let n = 0; n < count; n++) {
      const row = {};
      fields.forEach((field, k) => {
        const value = values[n * fields.length + k];
        row[field] = Number.isFinite(value) ? value : null;
      });
      for (const [field, each] of texts) row[field] = each[at[0]];
      figure.axes.forEach((axis, k) => {
        row[axis] = `${at[k]} ${cube.labels[k][at[k]]}`;
      });
      rows.push(row);
      for (let k = own.length - 1; k >= 0; k--) {
        if (++at[k] < own[k]) break;
        at[k] = 0;
      }
    }
    return [rows, own.join()];
  }

  // ------------------------------------------------------------------ charts

  const withoutNumber = (text) => text.slice(text.indexOf(" ") + 1);

  function showTip(figure, event, value) {
    if (!value || typeof value !== "object") {
      tip.hidden = true;
      return;
    }
    const parts = Object.entries(value).flatMap(([label, text]) => {
      const [name, content] = [document.createElement("span"), document.createElement("span")];
      name.textContent = label;
      content.textContent = /^\d+ /.test(text) ? withoutNumber(text) : text;
      return [name, content];
    });
    tip.replaceChildren(...parts);
    tip.hidden = false;
    const { innerWidth, innerHeight } = window;
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)}px`;
  }

  const MANY = 200; // rows that are drawn in a task of their own
  const LABELS = 170;
  const WITHOUT_LEGEND = 40;
  const PADDING = 40;
  const LINE = 18;
  const NARROW = 440;
  function fitted(chart, whole) {
    // On a phone, the legend is below.
    const room = whole < NARROW ? whole + WITHOUT_LEGEND : whole;
    const chartOf = structuredClone(chart.specification);
    if (!chartOf.width.step) {
      chartOf.width = Math.min(chartOf.width, room - LABELS);
      return chartOf;
    }
    const across = new Set(chart.rows.map((row) => row[chart.across])).size;
    const least = chartOf.width.step / 2.2;
    const most = chartOf.width.step;
    const step = Math.max(least, Math.min(most, (room - LABELS) / Math.max(1, across)));
    chartOf.width = { step: Math.floor(step * 2) / 2 };
    const axis = chartOf.encoding.x.axis;
    // At an angle, each label has room in its step.
    if (axis && axis.labelAngle && step >= LINE) axis.labelOverlap = false;
    if (chartOf.height && chartOf.height.step) chartOf.height = chartOf.width;
    return chartOf;
  }

  class Figure {
    constructor(element, data, chosen, choose) {
      Object.assign(this, { element, data, chosen, choose });
      this.canvas = element.querySelector(".canvas");
      figures.push(this);
    }

    options() {
      return this.data.pickers.map((name) => this.chosen(name));
    }

    async embed() {
      const [rows, shape] = rowsOf(this.data, this.options());
      const across = this.data.chart.encoding.x.field;
      const room = this.element.parentElement.clientWidth - PADDING;
      const specification = fitted({ specification: this.data.chart, rows, across }, room);
      const config = styles[isDark() ? "dark" : "light"];
      const legend = room < NARROW ? { ...config.legend, orient: "bottom" } : config.legend;
      specification.data = { name: "values", values: rows.length > MANY ? rows.slice(0, 1) : rows };
      delete specification.config;
      await pause();
      if (this.view) this.view.finalize();
      const { view } = await vegaEmbed(this.canvas, specification, {
        actions: false,
        ast: true,
        config: { ...config, legend },
        defaultStyle: false,
        logLevel: 1, // errors: a chart may have nothing to draw for some choices
        renderer: "canvas",
        tooltip: (_, event, __, value) => showTip(this, event, value),
      });
      this.view = view;
      this.shape = shape;
      if (rows.length > MANY) await this.replace(rows);
      view.addEventListener("click", (_, item) => {
        if (!item || !item.datum) return;
        for (const [field, picker] of Object.entries(this.data.clicks))
          if (item.datum[field]) this.choose(picker, withoutNumber(item.datum[field]));
      });
    }

    async update() {
      if (!this.view) return;
      const [rows, shape] = rowsOf(this.data, this.options());
      if (shape !== this.shape) await this.embed();
      else await this.replace(rows);
    }

    // Labels may differ, and axes keep the order of the data.
    async replace(rows) {
      this.view.data("values", []);
      await this.view.runAsync();
      await pause();
      this.view.data("values", rows);
      await this.view.runAsync();
    }
  }

  // ------------------------------------------------------------------ tables

  const FEW = 12;
  const AT_ONCE = 100;
  const OPEN = 60; // rows of a tree that begins with its groups open
  const SHORT = 30; // characters of a cell that stays on one line
  const BARS = "values";

  // Groups of rows by the path of their address. A group of one is not worth a row of its own.
  function treeOf(rows) {
    const root = { name: "", groups: new Map(), rows: [] };
    rows.forEach(([address], at) => {
      const colon = address.indexOf(":");
      const path = (colon < 0 ? address : address.slice(0, colon)).split("/").filter(Boolean);
      let node = root;
      for (const name of path) {
        if (!node.groups.has(name)) node.groups.set(name, { name, groups: new Map(), rows: [] });
        node = node.groups.get(name);
      }
      node.rows.push({ at, label: colon < 0 ? address : address.slice(colon) });
    });
    return folded(root);
  }

  function folded(node) {
    const groups = [];
    const rows = [...node.rows];
    for (const group of node.groups.values()) {
      const one = folded(group);
      if (one.rows.length === 1 && !one.groups.length)
        rows.push({ at: one.rows[0].at, label: one.name + joint(one.rows[0].label) });
      else if (one.groups.length === 1 && !one.rows.length)
        groups.push({ ...one.groups[0], name: `${one.name}/${one.groups[0].name}` });
      else groups.push(one);
    }
    const first = (one) => (one.at === undefined ? one.first : one.at);
    const parts = [...groups, ...rows].sort((a, b) => first(a) - first(b));
    const count = rows.length + groups.reduce((sum, one) => sum + one.count, 0);
    return { name: node.name, groups, rows, parts, count, first: parts.length && first(parts[0]) };
  }

  const joint = (label) => (label.startsWith(":") ? label : `/${label}`);

  function listing(element, data) {
    const count = document.createElement("span");
    count.className = "count";
    count.setAttribute("role", "status");
    const scroll = document.createElement("div");
    scroll.className = "scroll";
    scroll.tabIndex = 0;
    scroll.setAttribute("role", "group");
    scroll.setAttribute("aria-label", `Table: ${data.columns.join(", ")}`);
    const table = document.createElement("table");
    const body = document.createElement("tbody");
    const head = document.createElement("tr");
    table.append(document.createElement("thead"), body);
    table.tHead.append(head);
    scroll.append(table);
    const numeric = new Set(data.numeric);
    const texts = data.rows.map((row, at) =>
      [...row, ...Object.values(data.details[at] || {})].join("\n").toLowerCase(),
    );
    const short = data.columns.map((_, column) =>
      data.rows.every((row) => row[column].length <= SHORT),
    );
    let order = data.rows.map((_, at) => at);
    let wanted = "";
    let shown = [];
    let drawn = 0;
    const tree = data.tree && data.rows.length > FEW ? treeOf(data.rows) : null;
    const opened = new Set(); // the groups that are open
    let grouped = tree !== null && tree.groups.length > 0;
    function openFew(node) {
      for (const one of node.groups) {
        if (node.groups.length > 1 && data.rows.length > OPEN) continue;
        opened.add(one);
        openFew(one);
      }
    }
    if (grouped) openFew(tree);
    let toggle = null;

    data.columns.forEach((title, column) => {
      const heading = document.createElement("th");
      heading.scope = "col";
      if (numeric.has(column)) heading.className = "number";
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = title;
      button.addEventListener("click", () => {
        const down = heading.getAttribute("aria-sort") === "ascending";
        for (const other of head.children) other.removeAttribute("aria-sort");
        heading.setAttribute("aria-sort", down ? "descending" : "ascending");
        sort(column, down ? -1 : 1);
      });
      heading.append(button);
      head.append(heading);
    });

    function sort(column, sign) {
      const key = (at) => data.rows[at][column];
      order.sort((a, b) => {
        const [left, right] = [key(a), key(b)];
        if (!numeric.has(column)) return sign * left.localeCompare(right, "en", { numeric: true });
        if (!left || !right) return left ? -1 : right ? 1 : 0;
        return sign * (Number(left) - Number(right));
      });
      if (grouped) group(false); // rows in the order of a column have no groups
      else fill();
    }

    function group(on) {
      grouped = on;
      toggle.setAttribute("aria-pressed", String(on));
      if (on) for (const other of head.children) other.removeAttribute("aria-sort");
      if (on) order = data.rows.map((_, at) => at);
      fill();
    }

    function fill() {
      const found = order.filter((at) => texts[at].includes(wanted));
      shown = grouped ? lines(tree, new Set(found), 0) : found.map((at) => ({ at, depth: 0 }));
      drawn = 0;
      body.replaceChildren();
      scroll.scrollTop = 0;
      more();
      const of = data.rows.length.toLocaleString("en");
      count.textContent =
        found.length === data.rows.length
          ? `${of} rows`
          : `${found.length.toLocaleString("en")} of ${of} rows`;
    }

    // The rows of open groups, and those that a search found.
    function lines(node, found, depth) {
      const all = [];
      for (const one of node.parts) {
        if (one.at !== undefined) {
          if (found.has(one.at)) all.push({ at: one.at, depth, label: one.label });
          continue;
        }
        const under = wanted ? lines(one, found, depth + 1) : [];
        if (wanted && !under.length) continue;
        all.push({ group: one, depth });
        all.push(...(wanted ? under : opened.has(one) ? lines(one, found, depth + 1) : []));
      }
      return all;
    }

    function more(upTo = drawn + AT_ONCE) {
      upTo = Math.min(shown.length, upTo);
      for (; drawn < upTo; drawn++) body.append(line(shown[drawn]));
    }

    function line(one) {
      return one.group ? groupLine(one) : rowLine(one);
    }

    function groupLine({ group: node, depth }) {
      const row = document.createElement("tr");
      row.className = "group";
      const cell = row.insertCell();
      cell.colSpan = data.columns.length;
      cell.style.setProperty("--depth", depth);
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-expanded", String(Boolean(wanted) || opened.has(node)));
      const name = document.createElement("bdi");
      name.textContent = node.name;
      const size = document.createElement("span");
      size.className = "count";
      size.textContent = node.count.toLocaleString("en");
      button.append(name, size);
      button.addEventListener("click", () => {
        if (wanted) return;
        if (!opened.delete(node)) opened.add(node);
        const [top, upTo] = [scroll.scrollTop, drawn];
        fill();
        more(upTo + AT_ONCE);
        scroll.scrollTop = top;
        const again = [...body.querySelectorAll("tr.group")].find((other) => other.node === node);
        if (again) again.querySelector("button").focus({ preventScroll: true });
      });
      row.node = node;
      cell.append(button);
      return row;
    }

    function rowLine({ at, depth, label }) {
      const row = document.createElement("tr");
      data.rows[at].forEach((text, column) => {
        const cell = document.createElement("td");
        cell.classList.toggle("short", short[column]);
        cell.classList.toggle("number", numeric.has(column));
        cell.classList.toggle("bars", data.columns[column] === BARS);
        const inner = document.createElement("bdi");
        inner.textContent = column === 0 && label !== undefined ? label : text;
        if (column === 0) cell.style.setProperty("--depth", depth);
        if (column === 0 && label !== undefined) cell.title = text;
        if (column === 0 && data.details.length) {
          const button = document.createElement("button");
          button.type = "button";
          button.setAttribute("aria-expanded", "false");
          button.append(inner);
          button.addEventListener("click", () => unfold(row, button, at));
          cell.append(button);
        } else cell.append(inner);
        row.append(cell);
      });
      return row;
    }

    function unfold(row, button, at) {
      const open = button.getAttribute("aria-expanded") === "true";
      button.setAttribute("aria-expanded", String(!open));
      if (open) {
        row.nextElementSibling.remove();
        return;
      }
      const detail = document.createElement("tr");
      detail.className = "detail";
      const cell = detail.insertCell();
      cell.colSpan = data.columns.length;
      const facts = document.createElement("dl");
      facts.className = "facts";
      for (const [label, text] of Object.entries(data.details[at])) {
        const [name, content] = [document.createElement("dt"), document.createElement("dd")];
        name.textContent = label;
        content.textContent = text;
        facts.append(name, content);
      }
      cell.append(facts);
      row.after(detail);
    }

    // Arrows go from row to row, and open and close what can be opened.
    body.addEventListener("keydown", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      const every = [...body.querySelectorAll("td:first-child button")];
      const at = every.indexOf(button);
      const open = button.getAttribute("aria-expanded") === "true";
      if (event.key === "ArrowDown") {
        if (at === every.length - 1) more();
        const next = body.querySelectorAll("td:first-child button")[at + 1];
        if (next) next.focus();
      } else if (event.key === "ArrowUp" && at > 0) every[at - 1].focus();
      else if (event.key === "ArrowRight" && !open) button.click();
      else if (event.key === "ArrowLeft" && open) button.click();
      else return;
      event.preventDefault();
    });
    scroll.addEventListener("scroll", () => {
      if (scroll.scrollTop + scroll.clientHeight > scroll.scrollHeight - 400) more();
    });
    if (data.rows.length > FEW) {
      const bar = document.createElement("div");
      bar.className = "bar";
      const search = document.createElement("input");
      search.type = "search";
      search.placeholder = "Search";
      search.setAttribute("aria-label", `Search ${data.columns[0]}s`);
      search.addEventListener("input", () => {
        wanted = search.value.toLowerCase();
        fill();
      });
      bar.append(search, count);
      if (tree && tree.groups.length) {
        toggle = document.createElement("button");
        toggle.type = "button";
        toggle.textContent = "Group by layer";
        toggle.setAttribute("aria-pressed", "true");
        toggle.addEventListener("click", () => group(!grouped));
        bar.append(toggle);
      }
      element.append(bar);
    }
    element.append(scroll);
    fill();
  }

  // ------------------------------------------------------------------ sections

  function open(section) {
    const script = section.querySelector("script.data");
    const data = JSON.parse(script.textContent);
    const selects = new Map(
      [...section.querySelectorAll("select[data-picker]")].map((one) => [one.dataset.picker, one]),
    );
    const chosen = (name) => selects.get(name).selectedIndex;
    const own = [];
    function changed(name) {
      for (const one of own) if (one.data.pickers.includes(name)) later(() => one.update());
    }
    function choose(name, label) {
      const select = selects.get(name);
      const at = [...select.options].findIndex((option) => option.textContent === label);
      if (at >= 0 && at !== select.selectedIndex) {
        select.selectedIndex = at;
        changed(name);
      }
    }
    for (const [name, select] of selects) select.addEventListener("change", () => changed(name));
    const elements = section.querySelectorAll("[data-block]");
    data.blocks.forEach((block, at) => {
      if (block.kind === "listing") later(() => listing(elements[at], block));
      else {
        const figure = new Figure(elements[at], block, chosen, choose);
        own.push(figure);
        later(() => figure.embed());
      }
    });
  }

  const near = new IntersectionObserver(
    (entries) => {
      for (const entry of entries)
        if (entry.isIntersecting) {
          near.unobserve(entry.target);
          later(() => open(entry.target));
        }
    },
    { rootMargin: "300px" },
  );
  const links = new Map(
    [...document.querySelectorAll(".side a")].map((link) => [link.getAttribute("href"), link]),
  );
  const reading = new IntersectionObserver(
    (entries) => {
      for (const entry of entries)
        if (entry.isIntersecting) {
          for (const link of links.values()) link.removeAttribute("aria-current");
          links.get(`#${entry.target.id}`).setAttribute("aria-current", "true");
        }
    },
    { rootMargin: "-15% 0px -75% 0px" },
  );
  for (const section of document.querySelectorAll("main > section")) {
    near.observe(section);
    reading.observe(section);
  }
})();
