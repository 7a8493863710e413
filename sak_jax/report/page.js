"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);
  document.documentElement.classList.add("live");

  // One of a row of buttons is in the tab order; arrow keys, Home and End move along the row and choose.
  function roving(buttons, choose) {
    buttons.forEach((button, index) => {
      button.addEventListener("click", () => choose(index));
      button.addEventListener("keydown", (event) => {
        const to = {
          ArrowRight: index + 1, ArrowDown: index + 1, ArrowLeft: index - 1, ArrowUp: index - 1,
          Home: 0, End: buttons.length - 1,
        }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        const next = (to + buttons.length) % buttons.length;
        choose(next);
        buttons[next].focus();
      });
    });
  }

  // Tabs.
  const tabs = all('[role="tab"]');
  const panels = tabs.map((tab) => document.getElementById(tab.getAttribute("aria-controls")));
  function openTab(chosen) {
    tabs.forEach((tab, index) => {
      tab.setAttribute("aria-selected", index === chosen);
      tab.tabIndex = index === chosen ? 0 : -1;
      panels[index].hidden = index !== chosen;
    });
    tabs[chosen].scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  roving(tabs, (index) => {
    openTab(index);
    history.replaceState(null, "", "#" + panels[index].id);
  });
  const openHash = () => openTab(Math.max(0, panels.findIndex((panel) => "#" + panel.id === location.hash)));
  addEventListener("hashchange", openHash);
  openHash();

  // Curves: the values at the step under the pointer, or under the arrow keys.
  const NS = "http://www.w3.org/2000/svg";
  const short = (value) => (value === null ? "-" : String(Number(value.toPrecision(4))));
  all(".chart").forEach((figure) => {
    const chart = data.charts[figure.dataset.chart];
    const svg = figure.querySelector("svg");
    const cursor = svg.querySelector(".cursor");
    const output = figure.querySelector("output");
    const initially = [...output.childNodes];
    const steps = [...new Set(chart.lines.flatMap((line) => line.points.map((point) => point[0])))].sort((a, b) => a - b);
    let at = -1;
    const scale = ([low, high, start, end], value, log) => {
      if (log) [low, high, value] = [low, high, value].map(Math.log10);
      return start + (end - start) * (high > low ? (value - low) / (high - low) : 0.5);
    };
    const nearest = (points, step) =>
      points.reduce((best, point) => (Math.abs(point[0] - step) < Math.abs(best[0] - step) ? point : best));
    const shape = (tag, attributes) => {
      const element = document.createElementNS(NS, tag);
      for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
      return element;
    };
    function show(index) {
      at = Math.min(Math.max(index, 0), steps.length - 1);
      const step = steps[at];
      const x = scale(chart.x, step);
      cursor.replaceChildren(shape("line", { x1: x, x2: x, y1: chart.y[3], y2: chart.y[2] }));
      output.replaceChildren(make("span", { textContent: `step ${step.toLocaleString("en")}` }));
      for (const line of chart.lines) {
        const [where, value] = nearest(line.points, step);
        if (value !== null) {
          const dot = shape("circle", { cx: scale(chart.x, where), cy: scale(chart.y, value, chart.log), r: 3.5 });
          dot.setAttribute("class", `run${line.run % 6}`);
          cursor.append(dot);
        }
        const item = make("span");
        if (data.runs.length > 1) {
          item.append(make("span", { className: `dot run${line.run % 6}` }), data.runs[line.run] + " ");
        }
        item.append(make("b", { textContent: short(value) }), value === null ? " not finite" : "");
        output.append(item);
      }
    }
    function leave() {
      at = -1;
      cursor.replaceChildren();
      output.replaceChildren(...initially);
    }
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
      const [low, high, start, end] = chart.x;
      const step = low + ((x - start) / (end - start)) * (high - low);
      show(steps.reduce((best, value, index) => (Math.abs(value - step) < Math.abs(steps[best] - step) ? index : best), 0));
    });
    svg.addEventListener("pointerleave", leave);
    svg.addEventListener("blur", leave);
    svg.addEventListener("keydown", (event) => {
      const to = { ArrowRight: at + 1, ArrowLeft: at < 0 ? steps.length - 1 : at - 1, Home: 0, End: steps.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      show(to);
    });
  });

  // Predictions: one slider for all pictures, which wipes from one layer to the next.
  const NAMES = ["image", "prediction", "truth", "error"];
  const viewers = all(".viewer");
  const wipe = document.getElementById("wipe");
  const strip = document.querySelector(".strip");
  const numbers = [...new Set(data.examples.flat().map((example) => example.number))].sort((a, b) => a - b);
  const example = (run, number) => data.examples[run].find((one) => one.number === number);
  let number = numbers[0];
  let position = 0.5;
  let stops = [];

  function layers(viewer) {
    const shown = example(viewer.dataset.run, number);
    const task = shown && shown.tasks[viewer.dataset.task];
    return task ? [shown.image, ...task] : null;
  }
  function fill(stage, size) {
    stage.style.aspectRatio = `${size[0]} / ${size[1]}`;
    stage.classList.toggle("small", size[0] < 300);
  }
  function draw() {
    const last = stops.length - 1;
    const segment = Math.min(Math.floor(position), Math.max(last - 1, 0));
    const part = Math.min(position - segment, 1);
    for (const viewer of viewers) {
      const found = layers(viewer);
      viewer.hidden = !found;
      if (!found) continue;
      const [base, top] = all("img", viewer);
      const from = stops[segment], to = stops[Math.min(segment + 1, last)];
      const pick = (name) => data.images[found[NAMES.indexOf(name)] ?? -1] || "";
      fill(viewer.querySelector(".stage"), example(viewer.dataset.run, number).size);
      for (const [image, name] of [[base, from], [top, to]]) {
        const source = pick(name);
        image.style.visibility = source ? "visible" : "hidden";
        if (source && image.getAttribute("src") !== source) image.src = source;
      }
      base.alt = `${viewer.dataset.task}: ${from}`;
      top.alt = part > 0 ? `${viewer.dataset.task}: ${to}` : "";
      top.style.clipPath = `inset(0 ${100 - 100 * part}% 0 0)`;
      const edge = viewer.querySelector(".edge");
      edge.style.left = `${100 * part}%`;
      edge.hidden = part === 0 || part === 1;
      viewer.querySelector(".left").textContent = part > 0.15 ? to : "";
      viewer.querySelector(".right").textContent = part < 0.85 ? from : "";
    }
    const whole = Math.round(100 * part);
    wipe.setAttribute(
      "aria-valuetext",
      whole === 0 ? stops[segment] : whole === 100 ? stops[segment + 1] : `${stops[segment + 1]} ${whole} %, ${stops[segment]} ${100 - whole} %`,
    );
    all(".stops button").forEach((button, index) => button.setAttribute("aria-pressed", position === index));
  }
  function move(to) {
    position = Math.min(Math.max(to, 0), stops.length - 1);
    wipe.value = Math.round(100 * position);
    draw();
  }
  function choose(index) {
    number = numbers[index];
    if (strip) {
      all("button", strip).forEach((button, place) => {
        button.setAttribute("aria-checked", place === index);
        button.tabIndex = place === index ? 0 : -1;
      });
    }
    all(".feature").forEach((figure) => {
      const shown = example(figure.dataset.run, number);
      const source = shown && data.images[shown.features[figure.dataset.feature] ?? -1];
      figure.hidden = !source;
      if (!source) return;
      fill(figure.querySelector(".stage"), shown.size);
      figure.querySelector("img").src = source;
    });
    if (viewers.length) draw();
  }
  if (viewers.length) {
    const given = data.examples.flat().flatMap((one) => Object.values(one.tasks));
    stops = NAMES.filter((name, layer) => layer < 2 || given.some((task) => task[layer - 1] !== null));
    wipe.max = 100 * (stops.length - 1);
    wipe.addEventListener("input", () => move(wipe.value / 100));
    document.querySelector(".stops").append(
      ...stops.map((name, index) => {
        const button = make("button", { type: "button", textContent: name });
        button.style.left = `${(100 * index) / (stops.length - 1)}%`;
        button.addEventListener("click", () => move(index));
        return button;
      }),
    );
    const pictures = numbers.map((one) => data.examples.flat().find((shown) => shown.number === one));
    const buttons = pictures.map((shown) => {
      const button = make("button", { type: "button" });
      button.setAttribute("role", "radio");
      button.setAttribute("aria-label", `Image ${shown.number}`);
      button.append(make("img", { src: data.images[shown.image], alt: "" }));
      return button;
    });
    strip.append(...buttons);
    strip.hidden = buttons.length < 2;
    roving(buttons, choose);
    for (const viewer of viewers) {
      const stage = viewer.querySelector(".stage");
      let segment = 0;
      const drag = (event) => {
        const box = stage.getBoundingClientRect();
        move(segment + Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1));
      };
      stage.addEventListener("pointerdown", (event) => {
        segment = Math.max(0, Math.min(Math.ceil(position) - 1, stops.length - 2));
        stage.setPointerCapture(event.pointerId);
        drag(event);
      });
      stage.addEventListener("pointermove", (event) => event.buttons && drag(event));
      stage.addEventListener("dragstart", (event) => event.preventDefault());
    }
    move(0.5);
  }
  if (numbers.length) choose(0);

  // Routing: the means, or one image's weights in the same cells.
  const routed = document.getElementById("routed");
  if (routed) {
    const tables = all(".routed").map((box) => ({ box, cells: all("td", box), mean: all("td", box).map((cell) => cell.cloneNode(true)) }));
    const image = document.getElementById("routed-image");
    const overs = all("p.over");
    routed.addEventListener("change", () => {
      const chosen = Number(routed.value);
      for (const { box, cells, mean } of tables) {
        const shown = chosen && example(box.dataset.run, chosen);
        const weights = shown && shown.routing[box.dataset.task];
        box.hidden = Boolean(chosen) && !weights;
        cells.forEach((cell, index) => {
          const value = weights ? weights.flat()[index] : null;
          const shade = value === null || value <= 0.48 ? "" : value > 0.62 ? " high mid" : " mid";
          cell.className = value === null ? mean[index].className : `num${shade}`;
          cell.textContent = value === null ? mean[index].textContent : value.toFixed(2);
          cell.style.setProperty("--v", value === null ? mean[index].style.getPropertyValue("--v") : `${Math.round(100 * value)}%`);
        });
      }
      overs.forEach((over) => (over.hidden = Boolean(chosen)));
      const shown = chosen && data.examples.flat().find((one) => one.number === chosen);
      image.hidden = !shown;
      if (shown) image.src = data.images[shown.image];
    });
  }

  // Details.
  const only = document.getElementById("only");
  if (only) {
    const mark = () => document.querySelector(".recipe").classList.toggle("differing", only.checked);
    only.addEventListener("change", mark);
    mark();
  }
  all(".copy").forEach((button) =>
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code); // No clipboard for pages from disk: what is to be copied is selected.
        button.textContent = "Selected";
      }
    }),
  );
})();
