// Draws what the live stream tells. Texts are only ever set as text.
"use strict";

const KEPT = 120; // seconds that the curves show
const MINUTE = 60; // seconds that shares and percentiles look back on
const TONES = { learned: "good", closed: "warm", refused: "bad", key_rests: "bad", unreachable: "bad", by_hand: "quiet", reload: "good", state: "bad", shared: "warm" };

const byId = (id) => document.getElementById(id);
const cards = new Map(); // by the upstream's name: its card and what was told of it lately
const events = new Map(); // by id
let token = sessionStorage.getItem("token") || "";

function headers(more) {
  return token ? { ...more, authorization: `Bearer ${token}` } : { ...more };
}

// ---- words

const number = (value) => value >= 10000 ? new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }).format(value) : String(Math.round(value));
const rate = (value) => value >= 100 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value.toFixed(2);

function span(ms) {
  if (ms < 1) return "0 ms";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 10000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 120000) return `${Math.round(ms / 1000)} s`;
  if (ms < 7200000) return `${Math.round(ms / 60000)} min`;
  if (ms < 172800000) return `${Math.round(ms / 3600000)} h`;
  return `${Math.round(ms / 86400000)} d`;
}

function period(ms) {
  const names = { 1000: "s", 60000: "min", 3600000: "h", 86400000: "day" };
  return names[ms] || span(ms);
}

const perSecond = (value) => value === 0 || value >= 0.995 ? `${rate(value)}/s` : `${rate(value * 60)}/min`;
const sum = (values) => values.reduce((total, value) => total + value, 0);
const all = (counts) => sum(Object.values(counts));

// ---- the parts of a card

function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function make(tag, name, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
}

/** Makes a list's children as many as there are items, and draws each in its place. */
function fill(list, items, create, draw) {
  while (list.children.length > items.length) list.lastElementChild.remove();
  items.forEach((item, nth) => {
    if (!list.children[nth]) list.append(create());
    draw(list.children[nth], item);
  });
}

function scopeOf(limit) {
  const parts = [];
  if (limit.scope !== "upstream") parts.push(limit.of);
  if (limit.key) parts.push(`key ${limit.key}`);
  if (limit.model) parts.push(limit.model);
  return parts.join(", ");
}

function drawLimit(gauge, limit) {
  const scope = scopeOf(limit);
  const name = scope ? `${limit.unit} · ${scope}` : limit.unit;
  const what = gauge.querySelector(".what");
  const tag = limit.source === "configured" ? "" : limit.source;
  if (what.dataset.text !== name + tag) {
    what.dataset.text = name + tag;
    what.textContent = name;
    if (tag) what.append(make("span", "tag", tag));
  }
  const much = limit.period_ms ? `${number(limit.used)} of ${number(limit.amount)} per ${period(limit.period_ms)}` : `${number(limit.used)} of ${number(limit.amount)}`;
  set(gauge.querySelector(".much"), much);
  gauge.title = limit.limit;
  gauge.dataset.source = limit.source;
  gauge.toggleAttribute("data-debt", limit.room < 0);
  const track = gauge.querySelector(".track");
  track.setAttribute("aria-label", `${name}, ${limit.source}`);
  track.setAttribute("aria-valuemax", limit.amount);
  track.setAttribute("aria-valuenow", Math.min(limit.used, limit.amount));
  track.setAttribute("aria-valuetext", much);
  track.firstElementChild.style.width = `${Math.min(100, limit.used / limit.amount * 100)}%`;
}

const newLimit = () => byId("limit").content.firstElementChild.cloneNode(true);

/**
 * What the limits of requests let leave in a second; 0 where there is none. Of several limits together those count that
 * hold somebody up now, else the one of the shortest period: a day's limit is no rate while there is room in it. Keys add up.
 */
function allowed(limits) {
  const rates = limits.filter((limit) => limit.unit === "requests" && limit.period_ms && !limit.model);
  const together = (some) => {
    const shortest = Math.min(...some.map((limit) => limit.period_ms));
    const binding = some.filter((limit) => limit.free_in_ms > 0);
    const counted = binding.length ? binding : some.filter((limit) => limit.period_ms === shortest);
    return Math.min(...counted.map((limit) => limit.amount / limit.period_ms * 1000));
  };
  const keys = [...new Set(rates.map((limit) => limit.key).filter(Boolean))];
  const each = keys.length ? sum(keys.map((key) => together(rates.filter((limit) => limit.key === key)))) : Infinity;
  const least = Math.min(together(rates.filter((limit) => !limit.key)), each);
  return Number.isFinite(least) ? least : 0;
}

/** The rate at each kept moment: over a few seconds, or over as many as a slow limit needs to show anything. */
function rates(history, limit) {
  const wide = Math.min(30, Math.max(3, Math.ceil(4 / (limit || 2))));
  return history.map((sample, nth) => {
    const before = history[Math.max(0, nth - wide)];
    const seconds = (sample.at - before.at) / 1000;
    return seconds > 0 ? Math.max(0, sample.attempts - before.attempts) / seconds : 0;
  });
}

function drawFlow(card, upstream, limits) {
  const { history, root } = card;
  const limit = allowed(limits);
  const values = rates(history, limit);
  const now = values.at(-1) ?? 0;
  set(root.querySelector(".now"), `${perSecond(now)} sent`);
  set(root.querySelector(".of"), limit ? `of ${perSecond(limit)} allowed` : "no limit of requests is known");
  const top = Math.max(limit * 1.15, ...values, 0.001) * 1.05;
  const x = (nth) => 120 - (values.length - 1 - nth) * (120 / (KEPT - 1));
  const y = (value) => 40 - value / top * 40;
  const points = values.map((value, nth) => `${x(nth).toFixed(2)} ${y(value).toFixed(2)}`);
  const path = points.length > 1 ? `M${points.join("L")}` : "";
  const svg = root.querySelector("svg");
  svg.querySelector(".line").setAttribute("d", path);
  svg.querySelector(".area").setAttribute("d", path ? `${path}L120 40L${x(0).toFixed(2)} 40Z` : "");
  svg.querySelector(".limit").setAttribute("d", limit ? `M0 ${y(limit).toFixed(2)}H120` : "");
  svg.setAttribute("aria-label", `Requests sent to ${upstream.name} in the last two minutes: now ${perSecond(now)}${limit ? ` of ${perSecond(limit)}` : ""}`);
}

/** The wait that this part of the last minute's requests did not exceed. */
function percentile(counts, bounds, part) {
  const wanted = part * sum(counts);
  let below = 0;
  for (let nth = 0; nth < counts.length; nth++) {
    if (counts[nth] > 0 && below + counts[nth] >= wanted) {
      if (nth === 0) return 0;
      const least = bounds[nth - 1];
      return least + ((bounds[nth] ?? least) - least) * (wanted - below) / counts[nth];
    }
    below += counts[nth];
  }
  return 0;
}

function drawFigures(card, upstream, bounds) {
  const { root, history } = card;
  const before = history[Math.max(0, history.length - 1 - MINUTE)];
  const counts = upstream.waits.buckets.map((count, nth) => Math.max(0, count - (before?.buckets[nth] ?? 0)));
  const some = sum(counts) > 0;
  const { line } = upstream;
  const figures = {
    waiting: number(line.waiting),
    oldest: line.waiting ? span(line.oldest_ms) : "–",
    predicted: !line.waiting ? "–" : upstream.paused ? "paused" : span(line.predicted_ms),
    p50: some ? span(percentile(counts, bounds, 0.5)) : "–",
    p90: some ? span(percentile(counts, bounds, 0.9)) : "–",
    p99: some ? span(percentile(counts, bounds, 0.99)) : "–",
  };
  for (const [name, text] of Object.entries(figures)) set(root.querySelector(`[data-figure=${name}]`), text);
}

function drawStatus(card, upstream) {
  const whole = upstream.cooldowns.find((closed) => !closed.key && !closed.model);
  const pill = card.root.querySelector(".status");
  const [tone, text] = upstream.paused ? ["bad", "paused"]
    : whole ? ["warm", `closed, ${span(whole.left_ms)}`]
    : upstream.cooldowns.length ? ["warm", "partly closed"]
    : ["good", "open"];
  pill.dataset.tone = tone;
  set(pill, text);
  const list = card.root.querySelector(".cooldowns");
  list.hidden = upstream.cooldowns.length === 0;
  const create = () => { const item = make("li"); item.append(make("span", "of"), make("time")); return item; };
  fill(list.querySelector("ul"), upstream.cooldowns.slice(0, 8), create, (item, closed) => {
    set(item.firstElementChild, [closed.key && `key ${closed.key}`, closed.model].filter(Boolean).join(", ") || "everything");
    set(item.lastElementChild, `${span(closed.left_ms)} left`);
  });
}

function drawClients(card, upstream) {
  const { root, history } = card;
  const before = history[Math.max(0, history.length - 1 - MINUTE)]?.served ?? new Map();
  const clients = upstream.line.clients.map((client) => {
    const earlier = before.get(client.name) ?? 0;
    return { ...client, lately: client.served >= earlier ? client.served - earlier : client.served };
  }).filter((client) => client.lately || client.waiting);
  const total = sum(clients.map((client) => client.lately)) || 1;
  const part = root.querySelector(".clients");
  part.hidden = clients.length === 0;
  const create = () => {
    const item = make("li");
    const track = make("span", "track");
    track.append(make("span", "fill"));
    item.append(make("span", "who"), track, make("span", "much"));
    return item;
  };
  clients.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
  fill(part.querySelector("ul"), clients, create, (item, client) => {
    set(item.children[0], client.name);
    item.children[0].title = client.name;
    item.querySelector(".fill").style.width = `${client.lately / total * 100}%`;
    set(item.children[2], `${Math.round(client.lately / total * 100)} % · ${number(client.waiting)} wait`);
  });
}

function drawKeys(card, upstream) {
  const keys = card.root.querySelector(".keys");
  keys.hidden = upstream.keys.length === 0;
  set(keys, `Keys: ${upstream.keys.map((key) => `${key.number} (${key.fingerprint}…)${key.rests ? " rests" : ""}`).join(", ")}`);
}

function newCard(name) {
  const root = byId("card").content.firstElementChild.cloneNode(true);
  root.querySelector("h2").textContent = name;
  root.setAttribute("aria-label", name);
  const labels = { pause: "Pause", cooldown: "Close for 30 s:", release: "Release" };
  for (const button of root.querySelectorAll("button")) {
    button.setAttribute("aria-label", `${labels[button.dataset.act]} ${name}`);
    button.addEventListener("click", () => act(button, name));
  }
  byId("upstreams").append(root);
  return { root, history: [] };
}

function drawButtons(card, upstream) {
  const pause = card.root.querySelector(".buttons button");
  pause.dataset.act = upstream.paused ? "resume" : "pause";
  set(pause, upstream.paused ? "Resume" : "Pause");
  pause.setAttribute("aria-label", `${pause.textContent} ${upstream.name}`);
  card.root.querySelector("[data-act=release]").disabled = !upstream.cooldowns.length && !upstream.keys.some((key) => key.rests);
}

// ---- the page

function drawUpstream(upstream, snapshot) {
  let card = cards.get(upstream.name);
  if (!card) cards.set(upstream.name, card = newCard(upstream.name));
  const served = new Map(upstream.line.clients.map((client) => [client.name, client.served]));
  // Counts begin anew with the program.
  if (card.history.at(-1)?.attempts > upstream.totals.attempts) card.history.length = 0;
  card.history.push({ at: snapshot.now_ms, attempts: upstream.totals.attempts, buckets: upstream.waits.buckets, served });
  if (card.history.length > KEPT) card.history.shift();
  const domains = snapshot.limits.filter((limit) => limit.scope === "domain" && limit.of === upstream.name);
  const limits = [...upstream.limits, ...domains.map((limit) => ({ ...limit, scope: "upstream" }))];
  set(card.root.querySelector(".url"), upstream.url);
  drawStatus(card, upstream);
  drawFlow(card, upstream, limits);
  fill(card.root.querySelector(".limits"), limits.slice(0, 12), newLimit, drawLimit);
  drawFigures(card, upstream, snapshot.wait_bounds_ms);
  drawClients(card, upstream);
  drawKeys(card, upstream);
  drawButtons(card, upstream);
}

function draw(snapshot) {
  const { upstreams } = snapshot;
  const names = new Set(upstreams.map((upstream) => upstream.name));
  for (const [name, card] of cards) if (!names.has(name)) { card.root.remove(); cards.delete(name); }
  upstreams.forEach((upstream) => drawUpstream(upstream, snapshot));
  const others = snapshot.limits.filter((limit) => limit.scope !== "domain" || !names.has(limit.of));
  byId("others").hidden = others.length === 0;
  fill(byId("others").querySelector(".limits"), others.slice(0, 30), newLimit, drawLimit);
  const total = (of) => sum(upstreams.map(of));
  const lately = (of) => sum([...cards.values()].map(({ history }) => {
    const before = history[Math.max(0, history.length - 6)], now = history.at(-1);
    return now.at > before.at ? of(now, before) / (now.at - before.at) * 1000 : 0;
  }));
  const figures = {
    waiting: number(total((one) => one.line.waiting)),
    rate: rate(lately((now, before) => now.attempts - before.attempts)),
    requests: number(total((one) => one.totals.requests)),
    delayed: number(total((one) => one.totals.delayed)),
    refused: number(total((one) => all(one.totals.refusals))),
    away: number(total((one) => all(one.totals.turned_away))),
  };
  for (const [name, text] of Object.entries(figures)) set(byId("figures").querySelector(`[data-figure=${name}]`), text);
  drawShared(snapshot.shared);
  set(byId("about"), `${snapshot.phase} for ${span(snapshot.uptime_ms)} · version ${snapshot.version}`);
}

function drawShared(shared) {
  byId("shared").hidden = !shared;
  if (!shared) return;
  const [pill, text] = byId("shared").children;
  pill.dataset.tone = { reached: "good", lost: "bad" }[shared.store] || "quiet";
  set(pill, `store ${shared.store}`);
  const instances = `${number(shared.instances)} instance${shared.instances === 1 ? "" : "s"}`;
  set(text, shared.store === "lost" ? "a part of each shared limit flows on" : `${instances} · ${number(shared.limits)} shared`);
}

function drawEvents(more) {
  for (const event of more) events.set(event.id, event);
  const latest = [...events.values()].sort((a, b) => b.last_ms - a.last_ms || b.id - a.id).slice(0, 60);
  const kept = new Set(latest.map((event) => event.id));
  for (const id of events.keys()) if (!kept.has(id)) events.delete(id);
  const create = () => { const item = make("li"); item.append(make("div", "what"), make("div", "when quiet")); return item; };
  fill(byId("events"), latest, create, (item, event) => {
    item.dataset.tone = TONES[event.kind] || "quiet";
    const who = [event.upstream, ["closed", "learned", "key_rests"].includes(event.kind) && event.subject].filter(Boolean).join(", ");
    set(item.firstElementChild, who ? `${who}: ${event.text}` : event.text);
    const time = new Date(event.last_ms).toLocaleTimeString([], { hour12: false });
    set(item.lastElementChild, event.count > 1 ? `${time} · ${number(event.count)} times` : time);
  });
  byId("no-events").hidden = latest.length > 0;
}

let silence;
function say(text) {
  const said = byId("said");
  said.textContent = text;
  said.hidden = false;
  clearTimeout(silence);
  silence = setTimeout(() => { said.hidden = true; }, 4000);
}

async function order(path, body) {
  const answer = await fetch(`api/v1/${path}`, { method: "POST", headers: headers({ "content-type": "application/json" }), body: JSON.stringify(body) });
  if (!answer.ok) throw new Error((await answer.json()).error.message);
}

async function act(button, upstream) {
  const what = button.dataset.act;
  const done = { pause: "is paused", resume: "goes on", cooldown: "is closed for 30 s", release: "is released" };
  try {
    await order(what, what === "cooldown" ? { upstream, seconds: 30 } : { upstream });
    say(`${upstream} ${done[what]}`);
  } catch (error) {
    say(`Not done: ${error.message}`);
  }
}

async function watchLevel() {
  const level = byId("level");
  const answer = await fetch("api/v1/log-level", { headers: headers() });
  level.disabled = !answer.ok;
  if (answer.ok) level.value = (await answer.json()).level;
}

byId("level").addEventListener("change", async (event) => {
  try {
    await order("log-level", { level: event.target.value });
    say(`The log tells ${event.target.value}`);
  } catch (error) {
    say(`Not done: ${error.message}`);
  }
});

byId("reload").addEventListener("click", async () => {
  try {
    await order("reload", {});
    say("The configuration was read again");
  } catch (error) {
    say(`Not done: ${error.message}`);
  }
});

// ---- the stream. EventSource could not show the token.

function link(tone, text) {
  byId("link").dataset.tone = tone;
  set(byId("link"), text);
}

function hear(block) {
  let name = "", data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    else if (line.startsWith("data:")) data += line.slice(5).trim();
  }
  if (name === "snapshot") draw(JSON.parse(data));
  else if (name === "events") drawEvents(JSON.parse(data));
}

async function listen() {
  const answer = await fetch("api/v1/stream", { headers: headers(), cache: "no-store" });
  if (answer.status === 401) return answer.status;
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  byId("door").hidden = true;
  events.clear();
  document.querySelector("footer nav").hidden = Boolean(token); // a plain link cannot show it
  link("good", "live");
  watchLevel().catch(() => {});
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return answer.status;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    blocks.forEach(hear);
  }
}

async function run() {
  for (let pause = 1000; ; pause = Math.min(pause * 2, 15000)) {
    try {
      if (await listen() === 401) {
        link("warm", "locked");
        set(byId("denied"), token ? "That is not the token." : "");
        byId("door").hidden = false;
        return;
      }
      pause = 1000;
    } catch { /* It is shown as lost, and tried again. */ }
    link("bad", "connection lost");
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

byId("door").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value;
  sessionStorage.setItem("token", token);
  run();
});
run();
