"""Calls through the proxy with OpenAI's Python SDK, as its users write them. Prints what came as a line of JSON."""

import asyncio
import json
import sys

import openai
from openai import AsyncOpenAI, OpenAI

from crowd import crowd


def prompt(text):
    return [{"role": "user", "content": text}]


def described(error):
    """The class, status and code of an error."""
    return {"class": type(error).__name__, "status": getattr(error, "status_code", None), "code": error.code}


def failure(call):
    try:
        call()
    except openai.APIError as error:
        return described(error)
    return None


def calls(base):
    client = OpenAI(base_url=f"{base}/openai/v1", api_key="sk-of-the-client", max_retries=0)
    lost = OpenAI(base_url=f"{base}/nowhere/v1", api_key="sk-of-the-client", max_retries=0)

    def chat(model="gpt-4o", client=client, **options):
        return client.chat.completions.create(model=model, messages=prompt("Please say 5"), **options)

    plain = chat()
    streamed = list(chat(stream=True, stream_options={"include_usage": True}))
    silent = list(chat(stream=True))
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
    called = chat(tools=[tool]).choices[0].message.tool_calls[0].function
    answer = client.responses.create(model="gpt-4o", input="Please say 5")
    events = list(client.responses.create(model="gpt-4o", input="Please say 5", stream=True))
    return {
        "plain": [plain.choices[0].message.content, plain.usage.completion_tokens],
        "stream": ["".join(text(chunk) for chunk in streamed), streamed[-1].usage.completion_tokens],
        "silent": [len(silent), any(chunk.usage for chunk in silent)],
        "tool": [called.name, json.loads(called.arguments)],
        "responses": [answer.output_text, answer.usage.output_tokens],
        "responses_stream": [
            "".join(event.delta for event in events if event.type == "response.output_text.delta"),
            events[-1].response.usage.output_tokens,
        ],
        "embedding": len(client.embeddings.create(model="text-embedding-3-small", input="x").data[0].embedding),
        "models": [model.id for model in client.models.list()],
        "broken_stream": failure(lambda: list(chat("gpt-broken", stream=True))),
        "bad_request": failure(lambda: chat("gpt-bad")),
        "no_route": failure(lambda: chat("nobody-1", client=lost)),
        "unauthorized": failure(lambda: chat("gpt-denied")),
    }


def text(chunk):
    return "".join(choice.delta.content or "" for choice in chunk.choices)


async def crowd_of_calls(base):
    client = AsyncOpenAI(base_url=f"{base}/openai/v1", api_key="sk-of-the-client", max_retries=0)

    async def chat(**options):
        await client.chat.completions.create(model="gpt-4o", messages=prompt("Hello"), **options)

    return await crowd(chat, openai.APIError, described)


if __name__ == "__main__":
    _, base, scenario = sys.argv
    print(json.dumps(calls(base) if scenario == "calls" else asyncio.run(crowd_of_calls(base))))
