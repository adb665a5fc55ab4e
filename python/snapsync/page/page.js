"use strict";
(() => {
  const TOO_OLD = "This browser is too old to draw the charts: it cannot unpack the library in this page. " +
    "Chrome 80, Firefox 113, Safari 16.4 and newer ones can. The tables have the same figures.";
  const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
  const KINDS = ["created", "changed", "renamed", "deleted"];
  const CONFIG = { displayModeBar: false, responsive: true, doubleClick: false };
  const root = document.documentElement;
  const colour = (name) => getComputedStyle(root).getPropertyValue("--" + name).trim();
  const frame = () => new Promise((done) => setTimeout(done, 0));

  function size(bytes) {
    let power = 0;
    let value = bytes;
    while (Math.abs(value) >= 1023.95 && power < UNITS.length - 1) { value /= 1024; power += 1; }
    return (power ? value.toFixed(1) : String(value)) + " " + UNITS[power];
  }

  // Steps of 1, 2 or 5 of a binary unit: a plotting library knows decimal ones.
  function sizeTicks(highest) {
    const power = Math.max(0, Math.min(UNITS.length - 1, Math.floor(Math.log2(Math.max(1, highest)) / 10)));
    const unit = 1024 ** power;
    const rough = Math.max(highest, 1) / unit / 4;
    const ten = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((times) => times * ten >= rough) * ten;
    const values = [];
    for (let at = 0; at * step <= highest / unit * 1.02; at += 1) { values.push(at * step); }
    const digits = step < 1 ? Math.ceil(-Math.log10(step)) : 0;
    return {
      tickvals: values.map((value) => value * unit),
      ticktext: values.map((value) => (value ? value.toFixed(digits) + " " + UNITS[power] : "0")),
    };
  }

  // Through several colours, because the middle of two is often grey.
  function mix(colours, share) {
    const parts = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    const last = colours.length - 1;
    const place = Math.min(last - 1, Math.floor(share * last));
    const a = parts(colours[place]), b = parts(colours[place + 1]);
    share = share * last - place;
    return "rgb(" + a.map((value, at) => Math.round(value + (b[at] - value) * share)).join(",") + ")";
  }

  function layout(more) {
    const font = { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("soft") };
    const label = { bgcolor: colour("card"), bordercolor: colour("line"), font: { ...font, color: colour("ink") } };
    return { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font, hoverlabel: label, ...more };
  }

  function timeTicks(times, width) {
    const most = Math.max(2, Math.floor(width / 120));
    const step = Math.max(1, Math.ceil(times.length / most));
    const tickvals = times.map((_, at) => at).filter((at) => at % step === 0);
    return { tickvals, ticktext: tickvals.map((at) => times[at].replace(" ", "<br>")) };
  }

  function rounds(place, data) {
    const x = data.times.map((_, at) => at);
    const head = data.labels.map((label, at) => "<b>" + label + "</b>  " + data.times[at]);
    const sums = x.map((at) => data.counts.reduce((sum, column) => sum + column[at], 0));
    const bars = KINDS.map((kind, at) => ({
      type: "bar", name: kind, x, y: data.counts[at], marker: { color: colour(kind) },
      hovertemplate: "%{y:,} " + kind + "<extra></extra>",
    }));
    const bytes = {
      type: "bar", name: "bytes", x, y: data.bytes, yaxis: "y2", marker: { color: colour("bytes") },
      text: data.bytes.map(size), textposition: "none", hovertemplate: "%{text} of data<extra></extra>",
      showlegend: false,
    };
    const odd = x.filter((at) => data.unusual[at]);
    const highest = Math.max(1, ...sums);
    const marks = {
      type: "scatter", mode: "markers", name: "unusual", x: odd, y: odd.map((at) => sums[at] + highest * 0.07),
      marker: { symbol: "triangle-down", size: 11, color: colour("bad") }, cliponaxis: false,
      text: odd.map((at) => data.unusual[at]), hovertemplate: "unusual: %{text}<extra></extra>",
    };
    const axis = { gridcolor: colour("line"), zerolinecolor: colour("line"), fixedrange: true, automargin: true };
    const top = Math.max(1, ...data.bytes);
    const shown = layout({
      barmode: "stack", bargap: 0.22, hovermode: "x unified", dragmode: false,
      margin: { l: 8, r: 8, t: 34, b: 8 },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", itemclick: false, traceorder: "normal", itemdoubleclick: false },
      xaxis: {
        ...axis, ...timeTicks(data.times, place.clientWidth), anchor: "y2", showgrid: false, ticklen: 7,
        tickcolor: "rgba(0,0,0,0)",
        range: [-0.6, Math.max(x.length - 0.4, 11.4)],
      },
      yaxis: { ...axis, domain: [0.47, 1], range: [0, highest * 1.16], tickformat: ",~d", nticks: 5, title: { text: "entries" } },
      yaxis2: { ...axis, domain: [0, 0.38], range: [0, top * 1.1], ...sizeTicks(top), title: { text: "data" } },
    });
    // What stands over the figures of a bar: its name, and its time.
    shown.xaxis.unifiedhovertitle = { text: "%{customdata}" };
    bars.concat(bytes).forEach((trace) => { trace.customdata = head; });
    marks.customdata = odd.map((at) => head[at]);
    return Plotly.react(place, [...bars, bytes, ...(odd.length ? [marks] : [])], shown, CONFIG);
  }

  // How many levels to draw at once: each field takes about a millisecond.
  function depth(is, above, most) {
    const levels = [];
    const of = new Map();
    for (const at of is) {
      of.set(at, above[at] === null ? 0 : of.get(above[at]) + 1);
      levels[of.get(at)] = (levels[of.get(at)] || 0) + 1;
    }
    let fields = 0;
    const fits = levels.filter((count) => (fields += count) <= 150).length;
    return Math.max(2, Math.min(most, fits));
  }

  function map(place, data, metric, title) {
    const values = data[metric];
    const share = (at) => (metric === "bytes"
      ? Math.max(0, Math.min(1, data.growth_30_days[at] / Math.max(1, data.bytes[at])))
      : Math.min(1, data.deletions[at] / Math.max(1, data.changes[at])));
    const colours = (metric === "bytes" ? ["still", "grown"] : ["calm", "half", "away"]).map(colour);
    const is = data.above.map((_, at) => at).filter((at) => values[at] > 0 || at === 0);
    const told = (at) => "<b>" + data.paths[at] + "</b><br>" + data.changes[at].toLocaleString("en") +
      " changes, " + data.deletions[at].toLocaleString("en") + " of them deletions<br>" +
      size(data.data_bytes[at]) + " of data<br>holds " + size(data.bytes[at]) + " now";
    const worth = (at) => (metric === "changes" ? values[at].toLocaleString("en") : size(values[at]));
    const trace = {
      type: "treemap", branchvalues: "total", maxdepth: depth(is, data.above, place.clientWidth < 560 ? 3 : 4), sort: true,
      ids: is.map(String), parents: is.map((at) => (data.above[at] === null ? "" : String(data.above[at]))),
      labels: is.map((at) => (at ? data.names[at] : title)), values: is.map((at) => values[at]),
      customdata: is.map(told), text: is.map(worth),
      texttemplate: "%{label}<br>%{text}", hovertemplate: "%{customdata}<extra></extra>",
      textfont: { color: "#ffffff" }, tiling: { pad: 3 }, pathbar: { thickness: 26, textfont: { color: "#ffffff" } },
      marker: {
        colors: is.map((at) => mix(colours, share(at))), pad: { t: 22, l: 3, r: 3, b: 3 }, cornerradius: 5,
        line: { width: 1, color: colour("card") },
      },
    };
    return Plotly.react(place, [trace], layout({ margin: { l: 0, r: 0, t: 0, b: 0 } }), CONFIG);
  }

  // The pieces of a chart say less than its name and the table below it.
  function hideFromReaders(place) {
    for (const piece of [place.querySelector(".plot-container"), document.getElementById("js-plotly-tester")]) {
      if (piece) { piece.setAttribute("aria-hidden", "true"); }
    }
  }

  const draw = [];

  function prepare(article) {
    const data = JSON.parse(article.querySelector("script.figures").textContent);
    const timeline = article.querySelector(".chart.rounds");
    if (timeline) { draw.push(() => rounds(timeline, data.timeline)); }
    const place = article.querySelector(".chart.map");
    if (!place) { return; }
    const buttons = [...article.querySelectorAll(".switch button")];
    const pressed = () => buttons.find((button) => button.getAttribute("aria-pressed") === "true").dataset.metric;
    const show = () => {
      for (const key of article.querySelectorAll(".key")) {
        key.hidden = (key.dataset.of === "bytes") !== (pressed() === "bytes");
      }
      return map(place, data.map, pressed(), data.title);
    };
    for (const button of buttons) {
      button.addEventListener("click", () => {
        for (const other of buttons) { other.setAttribute("aria-pressed", String(other === button)); }
        show();
      });
    }
    draw.push(show);
  }

  async function library() {
    const packed = document.getElementById("library").textContent.trim();
    const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(unpacked).text();
    document.head.append(script);
  }

  async function drawAll() {
    for (const one of draw) {
      hideFromReaders(await one());
      await frame();
    }
    root.dataset.charts = "drawn";
  }

  async function start() {
    if (typeof DecompressionStream === "undefined") {
      for (const place of document.querySelectorAll(".chart .wait")) { place.textContent = TOO_OLD; }
      root.dataset.charts = "too old";
      return;
    }
    document.querySelectorAll("article.volume").forEach(prepare);
    if (draw.length) { await library(); }
    for (const place of document.querySelectorAll(".chart .wait")) { place.remove(); }
    await drawAll();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  }

  start();
})();
