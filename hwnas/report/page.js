"use strict";
// Draws the numbers of a report or of a comparison, lets the reader select and sort, and keeps a live page fresh.
(() => {
  const byId = (id) => document.getElementById(id);
  const NARROW = matchMedia("(max-width: 760px)"), DARK = matchMedia("(prefers-color-scheme: dark)");
  const PAGE_ROWS = 25, REFRESH_MS = 4000;
  let data = JSON.parse(byId("data").textContent);
  const view = { axis: 0, which: "best", selected: null, sort: { key: "score", down: true }, rows: PAGE_ROWS };

  // ------------------------------------------------------------------ small things

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const number = (value) => (value === null || value === undefined ? "–" : String(Number(value.toPrecision(4))));
  // plotly reads a few tags in texts; what comes from files must not be read so
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  // the ends of labels tell them apart
  const cut = (text, most) => (text.length > most ? `${text.slice(0, Math.ceil(most / 2) - 1)}…${text.slice(-Math.floor(most / 2))}` : text);
  function element(tag, text, attributes = {}) {
    const made = document.createElement(tag);
    if (text !== null) made.textContent = text;
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  }
  function switches(id, labels, current, choose) {
    const bar = byId(id);
    if (!bar) return;
    bar.replaceChildren(...labels.map(([key, label]) => {
      const button = element("button", label, { type: "button", "aria-pressed": String(key === current) });
      button.addEventListener("click", () => choose(key));
      return button;
    }));
  }

  // ------------------------------------------------------------------ plots

  function layout(x, y, more = {}) {
    const axis = (title) => ({
      title: { text: title, font: { size: 12.5 }, standoff: 10 }, gridcolor: colour("grid"), linecolor: colour("line"),
      zeroline: false, automargin: true, ticks: "outside", tickcolor: colour("line"), ticklen: 4,
    });
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, -apple-system, 'Segoe UI', sans-serif", size: 12, color: colour("soft") },
      margin: { l: 58, r: 14, t: 34, b: 48 }, hovermode: "closest",
      hoverlabel: { bgcolor: colour("panel"), bordercolor: colour("line"), font: { color: colour("ink") }, align: "left" },
      legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom", font: { size: 11.5 } },
      // a finger on a plot scrolls the page
      dragmode: NARROW.matches ? false : "zoom", uirevision: "kept",
      ...more,
      xaxis: { ...axis(x), ...(more.xaxis || {}) }, yaxis: { ...axis(y), ...(more.yaxis || {}) },
    };
  }
  function draw(id, traces, about) {
    const place = byId(id);
    if (!place || typeof Plotly === "undefined") return Promise.resolve(null);
    const height = about.height || parseInt(place.style.minHeight, 10);
    return Plotly.react(place, traces, { ...about, height }, {
      responsive: true, displaylogo: false, displayModeBar: NARROW.matches ? false : "hover",
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    });
  }
  const withUnit = (name, unit) => plain(unit ? `${name} [${unit}]` : name);

  function scatter() {
    const all = data.points, axis = all.axes[view.axis], ink = colour("ink");
    if (!axis) return;
    const x = all.costs[axis.name], traces = [];
    const group = (name, keep, style) => {
      const at = all.score.map((_, i) => i).filter((i) => all.score[i] !== null && x[i] !== null && keep(i));
      if (!at.length) return;
      traces.push({
        type: "scatter", mode: "markers", name, x: at.map((i) => x[i]), y: at.map((i) => all.score[i]), customdata: at,
        text: at.map((i) => `trial ${all.index[i]}`), marker: style,
        hovertemplate: `%{text}<br>${withUnit(axis.name, axis.unit)}: %{x:.4g}<br>score: %{y:.4g}<extra></extra>`,
      });
    };
    const last = all.stage ? Math.max(...all.stage) : 0;
    const current = (i) => !all.stage || all.stage[i] === last;
    group("earlier stage", (i) => !current(i), { size: 4, color: colour("pale"), opacity: .5 });
    group("over the budget", (i) => current(i) && !all.fits[i], { size: 6, color: colour("pale"), opacity: .8 });
    group("within the budget", (i) => current(i) && all.fits[i], { size: 6, color: colour("blue"), opacity: .55 });
    const front = axis.front;
    if (front.length) {
      traces.push({
        type: "scatter", mode: "lines", name: "Pareto front", x: front.map((i) => x[i]), y: front.map((i) => all.score[i]),
        line: { shape: axis.lower ? "hv" : "vh", color: colour("violet"), width: 1.6 }, hoverinfo: "skip",
      });
    }
    const tried = data.finalists.filter((f) => f.score !== null && f.costs[axis.name] && f.costs[axis.name].checked !== null);
    for (const method of new Set(tried.map((f) => f.costs[axis.name].method))) {
      const own = tried.filter((f) => f.costs[axis.name].method === method), cost = (f) => f.costs[axis.name];
      const spread = (f) => cost(f).spread || [cost(f).checked, cost(f).checked];
      traces.push({
        type: "scatter", mode: "markers", name: `finalists, ${plain(method)}`, x: own.map((f) => cost(f).checked),
        y: own.map((f) => f.score), marker: { symbol: "diamond", size: 10, color: colour("orange"), line: { color: colour("paper"), width: 1 } },
        error_x: { type: "data", symmetric: false, array: own.map((f) => spread(f)[1] - cost(f).checked),
          arrayminus: own.map((f) => cost(f).checked - spread(f)[0]), color: colour("orange"), thickness: 1.2, width: 4 },
        text: own.map((f) => `${f.fits ? "fits" : "misses"}, test accuracy ${number(f.accuracy)}<br>predicted ${number(cost(f).predicted)}`),
        hovertemplate: `finalist, ${plain(method)}: %{x:.4g} ${axis.unit}<br>score: %{y:.4g}<br>%{text}<extra></extra>`,
      });
    }
    if (view.selected !== null && x[view.selected] !== null && all.score[view.selected] !== null) {
      traces.push({
        type: "scatter", mode: "markers", name: "selected", showlegend: false, hoverinfo: "skip", x: [x[view.selected]],
        y: [all.score[view.selected]], marker: { symbol: "circle-open", size: 15, color: ink, line: { width: 2 } },
      });
    }
    const shapes = axis.bounds.map((bound) => ({
      type: "line", x0: bound.value, x1: bound.value, yref: "paper", y0: 0, y1: 1, line: { color: colour("red"), width: 1.3, dash: "dash" },
    }));
    const notes = axis.bounds.map((bound) => ({
      x: bound.value, yref: "paper", y: 0, text: "budget", showarrow: false, xanchor: "left", yanchor: "bottom", xshift: 4,
      font: { color: colour("red"), size: 11.5 },
    }));
    const method = axis.name.startsWith("latency") ? ", predicted" : "";
    draw("plot-scatter", traces, layout(withUnit(`${axis.name}${method}`, axis.unit), "score", { shapes, annotations: notes }))
      .then((place) => {
        if (!place || place.dataset.clicks) return;
        place.dataset.clicks = "yes";
        place.on("plotly_click", (event) => {
          const at = event.points.map((point) => point.customdata).find((each) => Number.isInteger(each));
          if (at !== undefined) select(at);
        });
      });
    switches("axis", all.axes.map((each, i) => [i, each.name]), view.axis, (i) => { view.axis = i; scatter(); });
  }

  function progress() {
    const traces = [], random = data.progress.random;
    if (random) {
      traces.push({ type: "scatter", mode: "lines", x: random.x, y: random.low, line: { width: 0 }, hoverinfo: "skip", showlegend: false });
      traces.push({ type: "scatter", mode: "lines", x: random.x, y: random.high, line: { width: 0 }, fill: "tonexty",
        fillcolor: colour("fill"), hoverinfo: "skip", name: "random, 80 % of draws" });
      traces.push({ type: "scatter", mode: "lines", x: random.x, y: random.mean, name: "random, mean",
        line: { color: colour("orange"), width: 1.6, dash: "dot" }, hovertemplate: "best of %{x} random: %{y:.4g}<extra></extra>" });
    }
    data.progress.lines.forEach((line, i) => traces.push({
      type: "scatter", mode: "lines", x: line.x, y: line.y, name: data.progress.lines.length > 1 ? `this run, stage ${i + 1}` : "this run",
      line: { shape: "hv", color: colour(["blue", "violet", "green"][i % 3]), width: 2 },
      hovertemplate: "after %{x} evaluations: %{y:.4g}<extra></extra>",
    }));
    // the first few draws are worth nothing and would flatten all that follows; zooming out shows them
    const late = [], most = Math.max(0, ...data.progress.lines.flatMap((line) => line.x));
    for (const line of data.progress.lines) line.x.forEach((x, i) => { if (x >= Math.min(5, most) || i === line.x.length - 1) late.push(line.y[i]); });
    if (random) random.x.forEach((x, i) => { if (x >= 5) late.push(random.low[i], random.high[i]); });
    const low = Math.min(...late), high = Math.max(...late), pad = (high - low) * .08 || Math.abs(high) * .02 || 1;
    draw("plot-progress", traces, layout("evaluations", "best score so far", {
      showlegend: true, xaxis: most > 2000 ? { type: "log" } : { rangemode: "tozero" },
      yaxis: late.length ? { range: [low - pad, high + pad] } : {},
    }));
  }

  function predicted() {
    data.predicted.forEach((each, index) => {
      const traces = [], values = [];
      if (each.networks) {
        values.push(...each.networks.predicted, ...each.networks.given);
        traces.push({ type: "scatter", mode: "markers", name: "networks of the table", x: each.networks.predicted, y: each.networks.given,
          marker: { size: 5, color: colour("blue"), opacity: .5 }, hovertemplate: "predicted %{x:.4g} ms<br>given %{y:.4g} ms<extra>network of the table</extra>" });
      }
      const own = each.finalists;
      if (own.length) {
        const bars = (middle, ends) => ({ type: "data", symmetric: false, thickness: 1.2, width: 4, color: colour("orange"),
          array: own.map((f) => (ends(f) ? ends(f)[1] - middle(f) : 0)), arrayminus: own.map((f) => (ends(f) ? middle(f) - ends(f)[0] : 0)) });
        values.push(...own.flatMap((f) => [f.predicted, f.checked, ...(f.interval || [])]));
        traces.push({ type: "scatter", mode: "markers", name: "finalists", x: own.map((f) => f.predicted), y: own.map((f) => f.checked),
          error_x: bars((f) => f.predicted, (f) => f.interval), error_y: bars((f) => f.checked, (f) => f.spread),
          marker: { symbol: "diamond", size: 9, color: colour("orange"), line: { color: colour("paper"), width: 1 } },
          text: own.map((f) => plain(f.method)), hovertemplate: "predicted %{x:.4g} ms<br>%{text} %{y:.4g} ms<extra>finalist</extra>" });
      }
      const low = Math.min(...values), high = Math.max(...values), pad = (high - low) * .04 || high * .05;
      const range = [Math.max(0, low - pad), high + pad];
      traces.unshift({ type: "scatter", mode: "lines", x: range, y: range, line: { color: colour("pale"), width: 1 }, hoverinfo: "skip", showlegend: false });
      const kinds = [...new Set([...own.map((f) => f.method), ...(each.networks ? [each.method] : [])])];
      draw(`plot-predicted-${index}`, traces, layout("predicted [ms]", plain(`${kinds.join(" or ") || "given"} [ms]`),
        { showlegend: true, xaxis: { range }, yaxis: { range } }));
    });
  }

  function heat(id, rows, columns, values, about) {
    const narrow = NARROW.matches, short = (text) => plain(cut(text, narrow ? 16 : 22));
    // ticks are places, not texts: two labels that are cut alike stay two
    const ticks = (labels) => ({ tickmode: "array", tickvals: labels.map((_, i) => i), ticktext: labels.map(short) });
    const text = values.map((row, i) => row.map((_, j) => `${plain(rows[i])}<br>${plain(columns[j])}`));
    const trace = {
      type: "heatmap", z: values, text, hovertemplate: `%{text}<br>%{z:.4g}${about.suffix}<extra></extra>`, hoverongaps: false,
      xgap: 1, ygap: 1, colorscale: about.scale || [[0, colour("low")], [1, colour("high")]], zmin: about.min, zmax: about.max, zmid: about.middle,
      colorbar: { thickness: 10, outlinewidth: 0, title: { text: about.bar, side: "right", font: { size: 11.5 } }, tickfont: { size: 11 }, len: Math.min(1, 260 / (rows.length * 18)), y: 1, yanchor: "top" },
    };
    if (about.numbers && !narrow) { trace.texttemplate = "%{z:.2f}"; trace.textfont = { size: 11 }; }
    const room = (byId(id)?.clientWidth || 400) - 170, longest = Math.max(0, ...columns.map((label) => short(label).length));
    const upright = (longest * 6.5 + 8) * columns.length > room;
    const side = about.numbers && narrow ? 34 : about.row || 18;
    return draw(id, [trace], layout(about.x || "", "", {
      height: rows.length * side + 150, margin: { l: 20, r: 4, t: 10, b: 20 },
      xaxis: { ...ticks(columns), tickangle: upright ? -90 : 0, showgrid: false, tickfont: { size: 11 } },
      yaxis: { ...ticks(rows), autorange: "reversed", showgrid: false, tickfont: { size: 11 } },
    }));
  }

  function choices() {
    const shares = data.choices;
    if (!shares) return;
    const change = shares.best.map((row, i) => row.map((value, j) => (value === null || shares.all[i][j] === null ? null : value - shares.all[i][j])));
    const values = { all: shares.all, best: shares.best, change }[view.which];
    const about = view.which === "change"
      ? { bar: "change of share", suffix: " more than among all", middle: 0, scale: [[0, colour("orange")], [.5, colour("low")], [1, colour("high")]] }
      : { bar: "share", suffix: " of the architectures", min: 0, max: 1 };
    heat("plot-choices", shares.rows, shares.columns, values, about);
    switches("which", [["all", "all"], ["best", "best tenth"], ["change", "best less all"]], view.which, (key) => { view.which = key; choices(); });
  }

  function plots() {
    if (data.points) { scatter(); progress(); predicted(); choices(); }
    (data.table || []).forEach((each, i) => heat(`plot-table-${i}`, each.rows, each.columns, each.ms, { bar: "ms", suffix: " ms" }));
    (data.traces || []).forEach((each, i) => draw(`plot-trace-${i}`, each.lines.map((line, j) => ({
      type: "scatter", mode: "lines", x: line.x, y: line.y, name: plain(line.name), line: { color: colour(["blue", "orange"][j % 2]), width: 1.6 },
    })), layout("step", "", { title: { text: plain(each.title), font: { size: 12.5 }, x: 0, xanchor: "left" }, showlegend: each.lines.length > 1 })));
    (data.grids || []).forEach((each, i) => heat(`plot-grid-${i}`, each.rows, each.columns, each.values, {
      bar: each.bar, suffix: each.suffix, numbers: each.numbers, row: each.numbers ? 34 : 18, min: each.min, max: each.max, middle: each.middle,
      scale: each.middle === undefined ? undefined : [[0, colour("orange")], [.5, colour("low")], [1, colour("high")]],
    }));
  }

  // ------------------------------------------------------------------ trials: selecting and sorting

  function select(at) {
    view.selected = at;
    const all = data.points, place = byId("detail"), chosen = byId("chosen");
    const facts = [["trial", String(all.index[at])], ["score", number(all.score[at])], ["within the budget", all.fits[at] ? "yes" : "no"]];
    for (const axis of all.axes) facts.push([axis.name, `${number(all.costs[axis.name][at])} ${axis.unit}`.trim()]);
    const picked = all.architecture[at].split(" ");
    const list = (pairs) => {
      const made = element("dl", null);
      for (const [name, value] of pairs) {
        const pair = element("div", null);
        pair.append(element("dt", name), element("dd", value));
        made.append(pair);
      }
      return made;
    };
    const named = all.decisions && all.decisions.map((d, i) => [d.name, d.choices[Number(picked[i])] ?? picked[i]]);
    const code = element("p", null);
    code.append(element("code", all.architecture[at]));
    chosen.replaceChildren(list(facts), ...(named ? [list(named)] : []), code);
    place.hidden = false;
    scatter();
    trials();
  }

  function trials() {
    const place = byId("rows"), all = data.points;
    if (!place || !all) return;
    const columns = [["index", "trial"], ["score", "score"], ...all.axes.map((axis) => [axis.name, axis.unit ? `${axis.name} [${axis.unit}]` : axis.name]), ["fits", "fits"]];
    const value = (key, i) => (key === "index" ? all.index[i] : key === "score" ? all.score[i] : key === "fits" ? all.fits[i] : all.costs[key][i]);
    const { key, down } = view.sort;
    const order = all.index.map((_, i) => i).sort((a, b) => {
      const x = value(key, a), y = value(key, b);
      if (x === null || y === null) return (x === null) - (y === null) || a - b;
      return (down ? y - x : x - y) || a - b;
    });
    const head = element("tr", null);
    for (const [name, label] of columns) {
      const cell = element("th", null, { class: "n", "aria-sort": name !== key ? "none" : down ? "descending" : "ascending" });
      const button = element("button", label, { type: "button", "data-key": name });
      button.addEventListener("click", () => {
        view.sort = { key: name, down: name === key ? !down : name === "score" || name === "fits" };
        trials();
        [...byId("rows").querySelectorAll("th button")].find((each) => each.dataset.key === name).focus();
      });
      cell.append(button);
      head.append(cell);
    }
    head.append(element("th", "architecture"));
    const body = element("tbody", null);
    for (const i of order.slice(0, view.rows)) {
      const row = element("tr", null, { tabindex: "0", "aria-selected": String(i === view.selected) });
      for (const [name] of columns) row.append(element("td", name === "fits" ? (all.fits[i] ? "yes" : "no") : number(value(name, i)), { class: "n" }));
      const cell = element("td", null);
      cell.append(element("code", all.architecture[i]));
      row.append(cell);
      const choose = () => { select(i); byId("detail").scrollIntoView({ block: "nearest" }); };
      row.addEventListener("click", choose);
      row.addEventListener("keydown", (event) => { if (event.key === "Enter") choose(); });
      body.append(row);
    }
    const table = element("table", null), holder = element("div", null, { class: "wide" }), top = element("thead", null);
    top.append(head);
    table.append(top, body);
    holder.append(table);
    const parts = [holder];
    if (all.index.length < all.total) parts.push(element("p", `Listed are the ${all.index.length.toLocaleString("en")} trials that are drawn, of ${all.total.toLocaleString("en")}.`));
    if (order.length > view.rows) {
      const more = element("button", `Show ${Math.min(100, order.length - view.rows)} more of ${order.length.toLocaleString("en")}`, { type: "button", id: "more" });
      more.addEventListener("click", () => { view.rows += 100; trials(); });
      parts.push(more);
    }
    const scrolled = place.querySelector(".wide")?.scrollLeft || 0;
    place.replaceChildren(...parts);
    holder.scrollLeft = scrolled;
  }

  // ------------------------------------------------------------------ tables of a comparison

  function sortable(table) {
    table.querySelectorAll("thead th").forEach((cell, column) => {
      const button = element("button", cell.textContent, { type: "button" });
      button.addEventListener("click", () => {
        const down = cell.getAttribute("aria-sort") !== "descending", body = table.tBodies[0];
        const read = (row) => row.cells[column].textContent.replace(/ %$/, "");
        const compare = (a, b) => (isNaN(read(a)) || isNaN(read(b)) ? read(a).localeCompare(read(b)) : read(a) - read(b));
        table.querySelectorAll("th").forEach((each) => each.setAttribute("aria-sort", "none"));
        cell.setAttribute("aria-sort", down ? "descending" : "ascending");
        body.replaceChildren(...[...body.rows].sort((a, b) => (down ? compare(b, a) : compare(a, b))));
      });
      cell.replaceChildren(button);
      cell.setAttribute("aria-sort", "none");
    });
  }

  // ------------------------------------------------------------------ a live page

  const outline = (root) => [...root.querySelectorAll("section")].map((each) => each.id).join(" ");
  const parts = (root) => new Map([...root.querySelectorAll("[data-part]")].map((each) => [each.dataset.part, each.innerHTML]));

  function follow() {
    let shape = outline(document), known = parts(document), text = byId("data").textContent;
    const refresh = async () => {
      if (document.hidden) return;
      const answer = await fetch(location.pathname, { cache: "no-cache" });
      if (!answer.ok) throw new Error(String(answer.status));
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html"), found = parts(fresh);
      if (outline(fresh) !== shape) {
        const at = scrollY;
        document.querySelector("main").replaceWith(fresh.querySelector("main"));
        if (view.selected !== null) byId("detail").hidden = false;
        scrollTo(0, at);
      } else {
        for (const [key, html] of found) {
          if (html !== known.get(key)) document.querySelector(`[data-part="${key}"]`).innerHTML = html;
        }
      }
      const next = fresh.getElementById("data").textContent, moved = outline(fresh) !== shape;
      shape = outline(fresh);
      known = found;
      if (next === text && !moved) return;
      const trial = view.selected === null ? null : data.points.index[view.selected];
      text = next;
      data = JSON.parse(text);
      view.axis = Math.min(view.axis, Math.max(0, data.points.axes.length - 1));
      const at = trial === null ? -1 : data.points.index.indexOf(trial);
      view.selected = at < 0 ? null : at;
      plots();
      if (at >= 0) select(at);
      else { byId("detail").hidden = true; trials(); }
    };
    const wait = () => setTimeout(() => refresh().then(() => { document.documentElement.dataset.live = "yes"; }, () => {
      document.documentElement.dataset.live = "lost"; // the server ended; what is shown stays
    }).then(wait), REFRESH_MS);
    wait();
  }

  if (document.documentElement.hasAttribute("data-live")) follow();
  plots();
  trials();
  document.querySelectorAll("table.sortable").forEach(sortable);
  DARK.addEventListener("change", plots);
  NARROW.addEventListener("change", plots);
})();
