// Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
// Replays a timeline, or several side by side, and shows the history of the token under the pointer or the focus.
// Everything is in the section itself: a token's title holds its history, a line "step: text" for each change.
(() => {
  "use strict";
  const STILLS = 8; // where motion is not wanted
  const STILL_MILLISECONDS = 1500;
  const root = document.currentScript.closest(".fsdfm-timeline");
  const slider = root.querySelector("input");
  const button = root.querySelector("button");
  const position = root.querySelector("output");
  const pace = root.querySelector("select");
  const details = root.querySelector(".fsdfm-details");
  const tokens = new Map(); // span -> token
  const lanes = Array.from(root.querySelectorAll(".fsdfm-lane"), readLane);
  let stopPlaying = null;

  function readLane(element) {
    const text = element.querySelector(".fsdfm-text");
    const lane = {
      text,
      numSteps: Number(element.dataset.steps),
      seconds: element.dataset.seconds ? element.dataset.seconds.split(" ").map(Number) : null,
      tokens: Array.from(text.querySelectorAll(".fsdfm-t"), readToken),
    };
    lane.tokens.forEach((token, number) => Object.assign(token, { lane, number }));
    if (lane.tokens.length) lane.tokens[0].span.tabIndex = 0; // one stop for Tab, arrow keys from there
    return lane;
  }

  function readToken(span) {
    const history = span.title.split("\n").map((line) => {
      const colon = line.indexOf(": ");
      return { step: Number(line.slice(0, colon)), text: line.slice(colon + 2) };
    });
    span.removeAttribute("title");
    span.tabIndex = -1;
    const settled = span.dataset.settled === undefined ? null : Number(span.dataset.settled);
    const token = { span, history, settled, shown: history.length - 1 };
    tokens.set(span, token);
    return token;
  }

  // Replay

  function show(value) {
    slider.value = value;
    for (const lane of lanes) {
      const step = root.dataset.race ? lane.seconds.filter((end) => end * 1000 <= value + 1e-6).length : value;
      lane.tokens.forEach((token) => showToken(token, step));
    }
    const isRace = Boolean(root.dataset.race);
    const text = isRace ? `${(value / 1000).toFixed(2)} s` : `${value} of ${slider.max}`;
    position.textContent = text;
    slider.setAttribute("aria-valuetext", isRace ? `${(value / 1000).toFixed(2)} seconds` : `step ${text}`);
  }

  function showToken(token, step) {
    let shown = token.history.length - 1;
    while (shown > 0 && token.history[shown].step > step) shown -= 1;
    if (shown !== token.shown) {
      token.span.textContent = token.history[shown].text.replaceAll("↵", "↵\n");
      token.shown = shown;
    }
    const isOpen = shown < token.history.length - 1 || (token.settled !== null && token.settled > step);
    token.span.classList.toggle("fsdfm-open", isOpen);
  }

  function play() {
    if (Number(slider.value) >= Number(slider.max)) show(0);
    for (const lane of lanes) lane.text.style.minHeight = `${lane.text.offsetHeight}px`; // so that the page stays put
    button.textContent = "Pause";
    const isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;
    stopPlaying = isStill ? playStills() : playSmoothly();
  }

  function playSmoothly() {
    const last = Number(slider.max);
    let before = performance.now();
    let value = Number(slider.value); // with a fraction
    let request = requestAnimationFrame(function advance(now) {
      const factor = pace ? Number(pace.value) : 1;
      value += Math.max(0, now - before) * (last / Number(root.dataset.milliseconds)) * factor;
      before = now;
      show(Math.min(last, Math.floor(value)));
      if (value >= last) stop();
      else request = requestAnimationFrame(advance);
    });
    return () => cancelAnimationFrame(request);
  }

  function playStills() {
    const last = Number(slider.max);
    const timer = setInterval(() => {
      const next = Math.floor((Number(slider.value) * STILLS) / last + 1 + 1e-9);
      show(Math.min(last, Math.ceil((next * last) / STILLS)));
      if (Number(slider.value) >= last) stop();
    }, STILL_MILLISECONDS);
    return () => clearInterval(timer);
  }

  function stop() {
    if (stopPlaying) stopPlaying();
    stopPlaying = null;
    button.textContent = "Play";
  }

  // History of one token

  function describe(token) {
    const last = token.history[token.history.length - 1];
    const heading = document.createElement("p");
    heading.append(quote(last.text), `, token ${token.number + 1}: ${whenSettled(token)}`);
    const list = document.createElement("ol");
    for (const change of token.history) {
      const item = document.createElement("li");
      item.append(change.step === 0 ? "start: " : `step ${change.step}: `, quote(change.text));
      list.append(item);
    }
    details.replaceChildren(heading, list);
  }

  function whenSettled(token) {
    if (token.span.classList.contains("fsdfm-given")) return "given";
    if (token.settled === null) return "cleared after the end of the text";
    return `settled in step ${token.settled} of ${token.lane.numSteps}`;
  }

  function quote(text) {
    const element = document.createElement("bdi");
    element.lang = "";
    element.textContent = text === "" ? "(nothing yet)" : text.replace(/^ +| +$/g, (spaces) => "␣".repeat(spaces.length));
    return element;
  }

  function moveFocus(event, token) {
    const isRightToLeft = getComputedStyle(token.lane.text).direction === "rtl";
    const forward = isRightToLeft ? "ArrowLeft" : "ArrowRight";
    const backward = isRightToLeft ? "ArrowRight" : "ArrowLeft";
    const all = token.lane.tokens;
    const targets = {
      [forward]: Math.min(token.number + 1, all.length - 1),
      [backward]: Math.max(token.number - 1, 0),
      Home: 0,
      End: all.length - 1,
    };
    if (!(event.key in targets) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    all[targets[event.key]].span.focus();
  }

  // Colours

  function isDarkenedByBrowser() {
    // Where a browser darkens pages by itself, the colour of a light page's canvas tells. Readers' own colours are
    // another thing: those leave the section as it is.
    if (matchMedia("(forced-colors: active)").matches) return false;
    const probe = document.createElement("div");
    probe.style.cssText = "display: none; background-color: canvas; color-scheme: light";
    root.append(probe);
    const color = getComputedStyle(probe).backgroundColor;
    probe.remove();
    return color !== "rgb(255, 255, 255)";
  }

  root.classList.toggle("fsdfm-darkened", isDarkenedByBrowser());
  root.addEventListener("pointerover", (event) => {
    const token = tokens.get(event.target);
    if (!token) return;
    details.setAttribute("aria-live", "off"); // who points can see
    describe(token);
  });
  root.addEventListener("focusin", (event) => {
    const token = tokens.get(event.target);
    if (!token) return;
    for (const other of token.lane.tokens) if (other.span.tabIndex === 0) other.span.tabIndex = -1;
    token.span.tabIndex = 0;
    details.setAttribute("aria-live", "polite");
    describe(token);
  });
  root.addEventListener("keydown", (event) => {
    const token = tokens.get(event.target);
    if (token) moveFocus(event, token);
  });
  slider.addEventListener("input", () => {
    stop();
    show(Number(slider.value));
  });
  button.addEventListener("click", () => (stopPlaying ? stop() : play()));
  root.querySelector(".fsdfm-controls").hidden = false;
  details.hidden = false;
})();
