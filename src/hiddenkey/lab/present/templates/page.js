"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const make = (tag, text, attributes = {}) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };

  // Colours: the system's until the reader chooses.
  const root = document.documentElement;
  const theme = byId("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const nameTheme = () => { theme.textContent = isDark() ? "Light colours" : "Dark colours"; };
  const remembered = () => { try { return localStorage.getItem("hiddenkey-theme"); } catch { return null; } };
  const remember = (value) => { try { localStorage.setItem("hiddenkey-theme", value); } catch { /* private mode */ } };
  if (remembered()) root.dataset.theme = remembered();
  theme.hidden = false;
  nameTheme();
  system.addEventListener("change", nameTheme);
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remember(root.dataset.theme);
    nameTheme();
  });

  // Sorting: numbers by value, words by letter, missing values last in both directions.
  const words = new Intl.Collator("en");
  const split = (text) => text.split(/(\d+(?:\.\d+)?)/);
  const natural = (one, two) => {
    const first = split(one), second = split(two);
    for (let index = 0; index < Math.min(first.length, second.length); index++) {
      const order = index % 2 ? first[index] - second[index] : words.compare(first[index], second[index]);
      if (order) return order;
    }
    return first.length - second.length;
  };
  const compare = (one, two, sign) => {
    const first = one === null || one === undefined || one === "";
    const second = two === null || two === undefined || two === "";
    if (first || second) return first - second;
    if (typeof one === "number" && typeof two === "number") return sign * (one - two);
    return sign * natural(String(one), String(two));
  };
  const turn = (heading) => {
    const next = heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    for (const other of heading.parentElement.children) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", next);
    return next === "ascending" ? 1 : -1;
  };
  const valueOf = (cell) => {
    if (cell.dataset.v === undefined) return cell.textContent.trim();
    return cell.dataset.v === "" ? null : Number(cell.dataset.v);
  };
  for (const heading of document.querySelectorAll("table.sortable thead th")) {
    heading.querySelector("button").addEventListener("click", () => {
      const sign = turn(heading);
      const body = heading.closest("table").tBodies[0];
      const keyed = [...body.rows].map((row) => [valueOf(row.cells[heading.cellIndex]), row]);
      keyed.sort((one, two) => compare(one[0], two[0], sign));
      body.append(...keyed.map(([, row]) => row));
    });
  }

  // The list of runs is built when it is opened, a part at a time.
  const data = JSON.parse(byId("data").textContent);
  const PART = 200;
  const columns = ["task", "configuration", "seed", "status", "last", "best", "loss_last", "seconds_per_step", "stage", "budget"];
  const names = { loss_last: "loss, last", seconds_per_step: "s/step", last: "metric, last", best: "metric, best" };
  const field = (run, name) => data.runs[run][data.fields.indexOf(name)];
  const list = byId("runs-table");
  let order = data.runs.map((_, run) => run);
  let limit = PART;
  const shown = (value) => {
    if (value === null || value === undefined) return "–";
    if (typeof value === "number" && !Number.isInteger(value)) return value.toFixed(3).replace("-", "−");
    return String(value);
  };
  const texts = data.runs.map((run, index) => JSON.stringify([run, data.values[index]]).toLowerCase());
  const rowOf = (run) => {
    const row = make("tr");
    columns.forEach((name, index) => {
      const value = field(run, name);
      const cell = make(index ? "td" : "th", name === "configuration" ? undefined : shown(value));
      if (!index) cell.scope = "row";
      if (typeof value === "number") cell.className = "n";
      if (name === "configuration") {
        const open = make("button", value, { type: "button", class: "open" });
        open.setAttribute("aria-label", `${value}, seed ${field(run, "seed")}: configuration`);
        open.addEventListener("click", () => describe(run));
        cell.append(open);
      }
      row.append(cell);
    });
    return row;
  };
  const draw = () => {
    const wanted = byId("runs-filter").value.trim().toLowerCase();
    const found = order.filter((run) => texts[run].includes(wanted));
    list.tBodies[0].replaceChildren(...found.slice(0, limit).map(rowOf));
    byId("runs-more").hidden = found.length <= limit;
    byId("runs-count").textContent = `${found.length} of ${data.runs.length} runs`;
  };
  const build = () => {
    if (list.tHead.rows.length) return;
    const head = make("tr");
    for (const name of columns) {
      const heading = make("th", undefined, { scope: "col", "aria-sort": "none" });
      const button = make("button", names[name] ?? name, { type: "button" });
      button.addEventListener("click", () => {
        const sign = turn(heading);
        order.sort((one, two) => compare(field(one, name), field(two, name), sign));
        draw();
      });
      heading.append(button);
      head.append(heading);
    }
    list.tHead.append(head);
    draw();
  };
  byId("runs-list").addEventListener("toggle", build);
  byId("runs-filter").addEventListener("input", () => { limit = PART; draw(); });
  byId("runs-more").addEventListener("click", () => { limit += PART; draw(); });

  const part = (title, entries) => {
    const table = make("table");
    table.append(make("caption", title));
    const body = table.createTBody();
    for (const [name, value] of entries) {
      const row = body.insertRow();
      row.append(make("th", name, { scope: "row" }));
      row.append(make("td", value !== null && typeof value === "object" ? JSON.stringify(value) : shown(value)));
    }
    return table;
  };
  const describe = (run) => {
    byId("run-title").textContent = `${field(run, "configuration")}, seed ${field(run, "seed")}`;
    byId("run-body").replaceChildren(
      part("Run", data.fields.map((name, index) => [names[name] ?? name, data.runs[run][index]])),
      part("Settings that differ between runs", data.options.map((name, index) => [name, data.values[run][index]])),
      part("Settings that all runs share", Object.entries(data.shared)),
      part("Environment", Object.entries(data.environments[data.environment[run]])),
    );
    byId("run").showModal();
  };
})();
