"""Calls through the proxy with Anthropic's Python SDK, as its users write them. Prints what came as a line of JSON."""

import asyncio
import json
import sys

import anthropic
from anthropic import Anthropic, AsyncAnthropic

from crowd import crowd


def prompt(text):
    return {"max_tokens": 64, "messages": [{"role": "user", "content": text}]}


def described(error):
    """The class, status and code of an error."""
    body = error.body if isinstance(error.body, dict) else {}
    status = getattr(error, "status_code", None)
    return {"class": type(error).__name__, "status": status, "code": body.get("error", {}).get("code")}


def failure(call):
    try:
        call()
    except anthropic.APIError as error:
        return described(error)
    return None


def calls(base):
    client = Anthropic(base_url=f"{base}/anthropic", api_key="sk-of-the-client", max_retries=0)
    lost = Anthropic(base_url=f"{base}/nowhere", api_key="sk-of-the-client", max_retries=0)

    def message(model="claude-sonnet-4-5", client=client, **options):
        return client.messages.create(model=model, **prompt("Please say 5"), **options)

    plain = message()
    with client.messages.stream(model="claude-sonnet-4-5", **prompt("Please say 5")) as stream:
        streamed = "".join(stream.text_stream)
        usage = stream.get_final_message().usage
    tool = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
    called = message(tools=[tool])
    return {
        "plain": [plain.content[0].text, plain.usage.output_tokens],
        "stream": [streamed, usage.output_tokens],
        "tool": [called.content[0].name, called.content[0].input],
        "stopped_by": called.stop_reason,
        "broken_stream": failure(lambda: list(message("claude-broken", stream=True))),
        "bad_request": failure(lambda: message("claude-bad")),
        "no_route": failure(lambda: message("nobody-1", client=lost)),
        "unauthorized": failure(lambda: message("claude-denied")),
    }


async def crowd_of_calls(base):
    client = AsyncAnthropic(base_url=f"{base}/anthropic", api_key="sk-of-the-client", max_retries=0)

    async def message(**options):
        await client.messages.create(model="claude-sonnet-4-5", **prompt("Hello"), **options)

    return await crowd(message, anthropic.APIError, described)


if __name__ == "__main__":
    _, base, scenario = sys.argv
    print(json.dumps(calls(base) if scenario == "calls" else asyncio.run(crowd_of_calls(base))))
