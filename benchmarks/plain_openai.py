"""The loop that everybody writes first: `async for chunk in stream`, one task a stream.

    python -m benchmarks.plain_openai URL STREAMS COUNT TOKENS RESULT
"""
import asyncio
import json
import sys
import time

import openai


async def read(url: str, streams: int, count: int, tokens: int) -> list[dict]:
    """Closed loop -> rows as benchmarks.raw_reader gives them; a request that fails has none."""
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    rows, left = [], iter(range(count))

    async def stream():
        for _ in left:
            started, stamps, total = time.monotonic(), [], 0
            try:
                reply = await client.chat.completions.create(
                    model="metronome", messages=[{"role": "user", "content": "word " * 100}], max_tokens=tokens, stream=True,
                    stream_options={"include_usage": True})
                async for chunk in reply:
                    if chunk.choices and chunk.choices[0].delta.content:
                        stamps.append(time.monotonic())
                    if chunk.usage:
                        total = chunk.usage.completion_tokens
            except openai.APIError as error:
                print(f"Error: {error!r}", file=sys.stderr)
                continue
            rows.append({"started": started, "ttft_ms": (stamps[0] - started) * 1000,
                         "tpot_ms": (stamps[-1] - stamps[0]) / (total - 1) * 1000,
                         "itl_ms": [(b - a) * 1000 for a, b in zip(stamps, stamps[1:])]})

    await asyncio.gather(*(stream() for _ in range(streams)))
    await client.close()
    return rows


if __name__ == "__main__":
    began = time.monotonic()
    rows = asyncio.run(read(sys.argv[1], *map(int, sys.argv[2:5])))
    spent = time.monotonic() - began
    with open(sys.argv[5], "w") as result:
        result.write(json.dumps({"rows": rows, "tokens_per_s": len(rows) * int(sys.argv[4]) / spent}))
