"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const make = (name, text, attributes = {}) => {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};
const shortest = (value) => {
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  return (size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(4)))).replace("-", "−");
};

/* Records: the tokens of both sides, the darker the likelier. */
const pick = document.getElementById("pick");
const records = data.browser.records;
let chosen = records.map((_, i) => i);
function side(element, name, ids, values, whole) {
  const mean = -values.reduce((a, b) => a + b, 0) / values.length / 100;
  const cut = ids.length < whole ? `, first ${ids.length} of ${whole} tokens` : "";
  const tokens = ids.map((id, i) => {
    const p = Math.exp(values[i] / 100);
    const token = make("span", data.browser.tokens[id], { title: `p = ${p.toPrecision(2)}` });
    token.style.setProperty("--p", p.toFixed(3));
    return token;
  });
  element.replaceChildren(make("h3", `${name} · ${mean.toFixed(2)} nats per token${cut}`), ...tokens);
}
function show(place) {
  if (!chosen.length) return;
  const at = (place + chosen.length) % chosen.length;
  const record = records[chosen[at]];
  pick.value = at;
  side(document.getElementById("left"), record.control, record.t, record.a, record.n);
  side(document.getElementById("right"), record.treated, record.t, record.b, record.n);
}
function choose() {
  const kind = document.getElementById("kind").value;
  const level = document.getElementById("level").value;
  const text = document.getElementById("seek").value.trim().toLowerCase();
  chosen = records.map((_, i) => i).filter((i) => {
    const record = records[i];
    return (!kind || record.kind === kind) && (!level || String(record.level) === level) && record.id.toLowerCase().includes(text);
  });
  pick.replaceChildren(...chosen.map((i, at) => {
    const { id, level: copies } = records[i];
    return new Option(`${id} · ${copies.toLocaleString("en")} ${copies === 1 ? "copy" : "copies"}`, at);
  }));
  document.getElementById("found").textContent = chosen.length ? "" : "no such record among those with tokens";
  show(0);
}
if (pick) {
  const kinds = [...new Set(records.map((record) => record.kind))];
  const levels = [...new Set(records.map((record) => record.level))].sort((a, b) => a - b);
  kinds.forEach((kind) => document.getElementById("kind").add(new Option(kind, kind)));
  levels.forEach((level) => document.getElementById("level").add(new Option(`${level} copies`, level)));
  ["kind", "level"].forEach((id) => document.getElementById(id).addEventListener("change", choose));
  document.getElementById("seek").addEventListener("input", choose);
  pick.addEventListener("change", () => show(Number(pick.value)));
  document.getElementById("back").addEventListener("click", () => show(Number(pick.value) - 1));
  document.getElementById("next").addEventListener("click", () => show(Number(pick.value) + 1));
  choose();
}

/* Tables: filtered, sorted, a page at a time. */
const SIZE = 25;
function fill(box) {
  const spec = data[box.dataset.table];
  const value = (row, i) => (row[i] === null ? null : spec.numeric[i] ? row[i] : spec.texts[row[i]]);
  let shown = spec.rows;
  let page = 0;
  let sorted = null;
  let falling = false;
  const controls = make("div", undefined, { class: "controls" });
  const picks = spec.filters.map((i) => {
    const values = [...new Set(spec.rows.map((row) => value(row, i)))];
    values.sort((a, b) => (spec.numeric[i] ? a - b : 0));
    const select = make("select", undefined, { "aria-label": spec.columns[i] });
    select.add(new Option(`${spec.columns[i]}: all`, ""));
    values.forEach((each, at) => select.add(new Option(each === null || each === "" ? "(none)" : String(each), at + 1)));
    select.addEventListener("change", update);
    return { select, column: i, values };
  }).filter((each) => each.values.length > 1);
  const seek = make("input", undefined, { type: "search", placeholder: "find text", "aria-label": "find text" });
  seek.addEventListener("input", update);
  const back = make("button", "◀", { "aria-label": "previous rows" });
  const next = make("button", "▶", { "aria-label": "next rows" });
  const told = make("span", "", { "aria-live": "polite" });
  back.addEventListener("click", () => { page -= 1; draw(); });
  next.addEventListener("click", () => { page += 1; draw(); });
  const paging = make("span", undefined, { class: "paging" });
  paging.append(back, " ", told, " ", next);
  controls.append(...picks.map((each) => each.select), seek, paging);
  const scroll = make("div", undefined, { class: "scroll", tabindex: "0" });
  const table = make("table");
  const heads = spec.columns.map((name, i) => {
    const head = make("th", undefined, spec.numeric[i] ? { class: "number" } : {});
    const button = make("button", name);
    button.addEventListener("click", () => {
      falling = sorted === i && !falling;
      sorted = i;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      update();
    });
    head.append(button);
    return head;
  });
  const top = make("tr");
  top.append(...heads);
  const headings = make("thead");
  headings.append(top);
  const body = make("tbody");
  table.append(headings, body);
  scroll.append(table);
  box.replaceChildren(controls, scroll);
  function update() {
    const text = seek.value.trim().toLowerCase();
    shown = spec.rows.filter((row) =>
      picks.every(({ select, column, values }) => !select.value || value(row, column) === values[Number(select.value) - 1]) &&
      (!text || row.some((_, i) => String(value(row, i) ?? "").toLowerCase().includes(text))));
    if (sorted !== null) {
      const sign = falling ? -1 : 1;
      shown.sort((a, b) => {
        const [x, y] = [value(a, sorted), value(b, sorted)];
        if (x === null || y === null) return (x === null) - (y === null);
        return (x > y ? 1 : x < y ? -1 : 0) * sign;
      });
    }
    page = 0;
    draw();
  }
  function draw() {
    const first = page * SIZE;
    const part = shown.slice(first, first + SIZE);
    body.replaceChildren(...part.map((row) => {
      const line = make("tr");
      line.append(...row.map((_, i) => {
        const own = value(row, i);
        const text = own === null ? "" : spec.numeric[i] ? shortest(own) : own;
        const long = !spec.numeric[i] && text.length > 48;
        const cell = make("td", text, spec.numeric[i] ? { class: "number" } : long ? { class: "long", title: text, tabindex: "0" } : {});
        if (box.dataset.table === "records" && i === 0) opens(cell, own);
        return cell;
      }));
      return line;
    }));
    told.textContent = shown.length ? `${(first + 1).toLocaleString("en")}–${(first + part.length).toLocaleString("en")} of ${shown.length.toLocaleString("en")}${spec.note ? ` (${spec.note})` : ""}` : "none";
    back.disabled = page === 0;
    next.disabled = first + SIZE >= shown.length;
  }
  draw();
}
function opens(cell, id) {
  if (!records.some((record) => record.id === id)) return;
  const button = make("button", id, { title: "show its tokens" });
  button.addEventListener("click", () => {
    ["kind", "level"].forEach((each) => { document.getElementById(each).value = ""; });
    document.getElementById("seek").value = "";
    choose();
    show(records.findIndex((record) => record.id === id));
    document.getElementById("one").scrollIntoView();
  });
  cell.replaceChildren(button);
}
document.querySelectorAll("[data-table]").forEach(fill);
window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
