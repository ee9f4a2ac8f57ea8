// Drives the dashboard in a real Chromium over its debugging pipe, and prints what it saw as one JSON object.
// Usage: node dashboard.mjs ADMIN_URL BUSY_UPSTREAM LIMITED_UPSTREAM FOLDER
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";

const [url, busy, limited, folder] = process.argv.slice(2);
const PATIENCE = 60_000;
const profile = mkdtempSync(join(tmpdir(), "dashboard-"));
mkdirSync(folder, { recursive: true });

const there = (name) => process.env.PATH.split(delimiter).some((folder) => existsSync(join(folder, name)));
const browser = spawn(["chromium", "google-chrome"].find(there) ?? "chromium", [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
  "--remote-debugging-pipe", `--user-data-dir=${profile}`, "about:blank",
], { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
browser.on("error", (error) => { console.error(`chromium does not start: ${error.message}`); process.exit(1); });

// ---- the protocol: JSON messages that end in a NUL byte

let last = 0;
let session;
const waiting = new Map();
const faults = [];
let rest = Buffer.alloc(0);

browser.stdio[4].on("data", (chunk) => {
  rest = Buffer.concat([rest, chunk]);
  for (let end; (end = rest.indexOf(0)) >= 0; rest = rest.subarray(end + 1)) hear(JSON.parse(rest.subarray(0, end).toString()));
});

function hear(message) {
  const { id, method, params } = message;
  if (waiting.has(id)) {
    const [done, failed] = waiting.get(id);
    waiting.delete(id);
    if (message.error) failed(new Error(message.error.message)); else done(message.result);
  } else if (method === "Runtime.exceptionThrown") {
    faults.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
  } else if (method === "Log.entryAdded" && ["error", "warning"].includes(params.entry.level)) {
    faults.push(`${params.entry.text} ${params.entry.url ?? ""}`);
  }
}

function send(method, params = {}) {
  const id = ++last;
  browser.stdio[3].write(JSON.stringify({ id, method, params, sessionId: session }) + "\0");
  return new Promise((done, failed) => waiting.set(id, [done, failed]));
}

async function evaluate(expression) {
  const { result, exceptionDetails } = await send("Runtime.evaluate", { expression, returnByValue: true, awaitPromise: true });
  if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
  return result.value;
}

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

async function until(what, expression) {
  for (const end = Date.now() + PATIENCE; Date.now() < end; await sleep(50)) {
    const value = await evaluate(expression);
    if (value) return value;
  }
  throw new Error(`it never came true that ${what}: ${await evaluate("document.body.innerText")}`);
}

// ---- what is looked at

const card = (name) => `[...document.querySelectorAll(".upstream")].find((card) => card.querySelector("h2").textContent === ${JSON.stringify(name)})`;
const text = (name, selector) => `(${card(name)})?.querySelector(${JSON.stringify(selector)})?.textContent`;
const figure = (name) => `Number(document.querySelector("#figures [data-figure=${name}]").textContent)`;

async function press(name, act) {
  await evaluate(`(${card(name)}).querySelector("[data-act=${act}]").focus()`);
  for (const type of ["keyDown", "keyUp"]) {
    await send("Input.dispatchKeyEvent", { type, key: "Enter", code: "Enter", windowsVirtualKeyCode: 13, text: type === "keyDown" ? "\r" : undefined });
  }
}

async function picture(name, { width, height, dark, mobile }) {
  await send("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: Boolean(mobile) });
  await send("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }] });
  await sleep(600);
  const whole = await evaluate("Math.ceil(document.documentElement.getBoundingClientRect().height)");
  const wide = await evaluate("document.documentElement.scrollWidth");
  const clip = { x: 0, y: 0, width, height: Math.max(height, mobile ? whole : height), scale: 1 };
  const { data } = await send("Page.captureScreenshot", { format: "png", clip, captureBeyondViewport: true });
  writeFileSync(join(folder, `${name}.png`), Buffer.from(data, "base64"));
  return { overflow: wide - width };
}

// ---- the story

async function story() {
  const { targetInfos } = await send("Target.getTargets");
  const { targetId } = targetInfos.find((target) => target.type === "page");
  ({ sessionId: session } = await send("Target.attachToTarget", { targetId, flatten: true }));
  for (const domain of ["Page", "Runtime", "Log"]) await send(`${domain}.enable`);
  await send("Emulation.setDeviceMetricsOverride", { width: 1280, height: 900, deviceScaleFactor: 1, mobile: false });
  await send("Page.navigate", { url });
  await until("the page is live", `document.querySelector("#link")?.textContent === "live" && ${card(busy)} !== undefined`);

  const before = await until("requests are counted", figure("requests"));
  await until("numbers move", `${figure("requests")} > ${before} && ${figure("rate")} > 0`);
  const waits = await until("somebody waits", `Number(${text(busy, "[data-figure=waiting]")})`);
  const closed = await until("a cooldown appears", `/^closed/.test(${text(limited, ".status")}) && ${text(limited, ".cooldowns time")}`);
  await until("the cooldown ends", `${text(limited, ".status")} === "open"`);
  await until("the event is told", `document.querySelector("#events").innerText.includes("closed by the upstream")`);
  const clients = await until("clients are named", `(${card(busy)}).querySelectorAll(".clients li .who").length > 1 && [...(${card(busy)}).querySelectorAll(".clients li .who")].map((who) => who.textContent)`);

  await press(busy, "pause");
  await until("it is paused", `${text(busy, ".status")} === "paused"`);
  const paused = Number(await evaluate(text(busy, "[data-figure=waiting]")));
  await press(busy, "resume");
  await until("it goes on", `${text(busy, ".status")} === "open"`);
  await press(busy, "cooldown");
  await until("it is closed by hand", `/^closed/.test(${text(busy, ".status")})`);
  await until("it may be released", `!(${card(busy)}).querySelector("[data-act=release]").disabled`);
  await press(busy, "release");
  await until("it is open again", `${text(busy, ".status")} === "open"`);

  // A curve that can be looked at takes a while.
  await sleep(Number(process.env.CURVE_MS ?? 12_000));
  const sizes = [
    await picture("dashboard-light", { width: 1440, height: 860 }),
    await picture("dashboard-dark", { width: 1440, height: 860, dark: true }),
    await picture("dashboard-phone", { width: 390, height: 844, mobile: true }),
  ];
  const unnamed = await evaluate(`[...document.querySelectorAll("button, [role=meter], svg[role=img], select, input")]
    .filter((part) => !part.closest("[hidden]") && !(part.getAttribute("aria-label") || part.labels?.length || part.textContent.trim())).length`);
  return { waits, closed, clients, paused, overflow: Math.max(...sizes.map((size) => size.overflow)), unnamed, faults };
}

let code = 0;
try {
  console.log(JSON.stringify(await story()));
} catch (error) {
  console.error(error.stack, faults);
  code = 1;
}
browser.once("exit", () => {
  rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  process.exit(code);
});
session = undefined;
send("Browser.close").catch(() => {});
setTimeout(() => browser.kill("SIGKILL"), 5000).unref();
