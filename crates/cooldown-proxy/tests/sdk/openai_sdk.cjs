// Calls through the proxy with OpenAI's Node SDK, as its users write them. Prints what came as a line of JSON.

const OpenAI = require("openai");

const CROWD = 40;
const BURST = 10;

const [base, scenario] = process.argv.slice(2);
const client = connect("openai");

function connect(provider) {
  return new OpenAI({ baseURL: `${base}/${provider}/v1`, apiKey: "sk-of-the-client", maxRetries: 0 });
}

function chat(options = {}, { via = client, ...settings } = {}) {
  const body = { model: "gpt-4o", messages: [{ role: "user", content: "Please say 5" }], ...options };
  return via.chat.completions.create(body, settings);
}

/** All that an iterable brings. */
async function all(promise) {
  const items = [];
  for await (const item of await promise) items.push(item);
  return items;
}

/** The class, status and code of the error that a call throws. */
async function failure(call) {
  try {
    await call();
  } catch (error) {
    return { class: error.constructor.name, status: error.status ?? null, code: error.code ?? null };
  }
  return null;
}

async function calls() {
  const plain = await chat();
  const streamed = await all(chat({ stream: true, stream_options: { include_usage: true } }));
  const silent = await all(chat({ stream: true }));
  const tool = { type: "function", function: { name: "weather", parameters: { type: "object", properties: {} } } };
  const called = (await chat({ tools: [tool] })).choices[0].message.tool_calls[0].function;
  const answer = await client.responses.create({ model: "gpt-4o", input: "Please say 5" });
  const events = await all(client.responses.create({ model: "gpt-4o", input: "Please say 5", stream: true }));
  const deltas = events.filter((event) => event.type === "response.output_text.delta");
  const embedded = await client.embeddings.create({ model: "text-embedding-3-small", input: "x" });
  return {
    plain: [plain.choices[0].message.content, plain.usage.completion_tokens],
    stream: [
      streamed.map((chunk) => chunk.choices[0]?.delta.content ?? "").join(""),
      streamed.at(-1).usage.completion_tokens,
    ],
    silent: [silent.length, silent.some((chunk) => chunk.usage)],
    tool: [called.name, JSON.parse(called.arguments)],
    responses: [answer.output_text, answer.usage.output_tokens],
    responses_stream: [deltas.map((event) => event.delta).join(""), events.at(-1).response.usage.output_tokens],
    embedding: embedded.data[0].embedding.length,
    models: (await all(client.models.list())).map((model) => model.id),
    broken_stream: await failure(() => all(chat({ model: "gpt-broken", stream: true }))),
    bad_request: await failure(() => chat({ model: "gpt-bad" })),
    no_route: await failure(() => chat({ model: "nobody-1" }, { via: connect("nowhere") })),
    unauthorized: await failure(() => chat({ model: "gpt-denied" })),
  };
}

async function crowd() {
  let answered = 0;
  let burstIsOver;
  const burst = new Promise((resolve) => (burstIsOver = resolve));
  const waiting = Array.from({ length: CROWD }, async () => {
    await chat().finally(() => {
      answered += 1;
      if (answered === BURST) burstIsOver();
    });
  });
  const settled = Promise.allSettled(waiting);
  await burst;
  const impatient = performance.now();
  const refused = await failure(() => chat({}, { timeout: 2000 }));
  const refusedAfter = (performance.now() - impatient) / 1000;
  const results = await settled;
  return {
    errors: results.filter((result) => result.status === "rejected").map((result) => String(result.reason)),
    refused: refused && { ...refused, seconds: refusedAfter },
  };
}

(scenario === "calls" ? calls() : crowd()).then((came) => console.log(JSON.stringify(came)));
