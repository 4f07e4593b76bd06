"""A client of websockets. client.py URL [PATH...] runs the conversations of the
paths, or all of them, and prints the result of each."""

import asyncio
import json
import os
import random
import ssl
import sys
import traceback
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed, InvalidStatusCode
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.legacy.client import connect

url, paths = sys.argv[1], sys.argv[2:]


def dial(path, **options):
    if url.startswith("wss:"):
        options["ssl"] = ssl.create_default_context(cafile=os.environ["CERTIFICATE"])
    return connect(url + path, max_size=64 << 20, origin=os.environ.get("ORIGIN"), **options)


def say(path, result):
    print(json.dumps({"path": path, "result": result}), flush=True)


async def end(ws, code=1000, reason="done"):
    await ws.close(code, reason)
    assert ws.close_code == code, f"closed with {ws.close_code}, not {code}"


async def closed(ws):
    try:
        while True:
            await ws.recv()
    except ConnectionClosed:
        return {"code": ws.close_code, "reason": ws.close_reason}


async def exchange(ws, message):
    await ws.send(message)
    assert await ws.recv() == message, f"a message of {len(message)} comes back changed"


async def text():
    ws = await dial("/echo/text")
    texts = ["", "hello", "grüße 🎉", "ö" * 50_000]
    for message in texts:
        await exchange(ws, message)
    many = [f"message {i}" for i in range(300)]
    for message in many:
        await ws.send(message)
    assert [await ws.recv() for _ in many] == many
    await end(ws)
    return {"messages": len(texts) + len(many)}


async def binary():
    ws = await dial("/echo/binary", compression=None)
    sizes = [0, 125, 126, 65535, 65536, 1 << 20, 16 << 20]
    for n in sizes:
        await exchange(ws, random.Random(n).randbytes(n))
    await end(ws)
    return {"bytes": sum(sizes)}


async def deflate():
    # The default also requests a small window, which not every server supports.
    ws = await dial("/echo/deflate", extensions=[ClientPerMessageDeflateFactory(client_max_window_bits=True)])
    await exchange(ws, "so it goes " * 100_000)
    await end(ws)
    return {"extension": ",".join(extension.name for extension in ws.extensions)}


async def subprotocol():
    ws = await dial("/echo/subprotocol", subprotocols=["chat.v1", "chat.v2"])
    await end(ws)
    return {"protocol": ws.subprotocol}


async def fragments():
    ws = await dial("/echo/fragments")
    await ws.send(["one", "two", "three"])
    message = await ws.recv()
    await end(ws)
    return {"text": message}


async def ping():
    ws = await dial("/echo/ping")
    await (await ws.ping(b"anyone?"))
    await end(ws)
    return {"pong": True}


async def pong():
    ws = await dial("/ping")
    message = await ws.recv()
    await end(ws)
    return {"text": message}


async def close():
    return await closed(await dial("/close"))


async def close_first():
    await end(await dial("/echo/close"), 4002, "my turn")
    return {}


async def drop():
    return {"code": (await closed(await dial("/drop")))["code"]}


async def abort():
    ws = await dial("/echo/abort")
    ws.transport.abort()
    await ws.wait_closed()
    return {}


async def headers():
    ws = await dial("/headers")
    said = json.loads(await ws.recv())
    await end(ws)
    return {**said, "host": said["host"] == urlsplit(url).netloc}


async def refuse():
    try:
        await dial("/refuse")
    except InvalidStatusCode as refusal:
        challenge = refusal.headers.get("WWW-Authenticate")
        return {"status": refusal.status_code, **({"challenge": challenge} if challenge else {})}


async def wait():
    ws = await dial("/echo/wait", ping_interval=None)
    await exchange(ws, "open")
    say("/echo/wait", {"open": True})
    return await closed(ws)


async def large():
    ws = await dial("/echo/large", compression=None)
    await ws.send("x" * 100_000)
    return await closed(ws)


async def keepalive():
    ws = await dial("/echo/keepalive", ping_interval=0.1, ping_timeout=10)
    say("/echo/keepalive", {"open": True})
    return await closed(ws)


async def frozen():
    ws = await dial("/frozen", ping_interval=0.1, ping_timeout=0.1, close_timeout=0.1)
    return await closed(ws)


async def half():
    ws = await dial("/half", ping_interval=None)
    await ws.send("that is all")
    ws.transport.write_eof()
    texts = []
    try:
        while True:
            texts.append(await ws.recv())
    except ConnectionClosed:
        return {"texts": texts, "code": ws.close_code}


conversations = {
    "/echo/text": text,
    "/echo/binary": binary,
    "/echo/deflate": deflate,
    "/echo/subprotocol": subprotocol,
    "/echo/fragments": fragments,
    "/echo/ping": ping,
    "/ping": pong,
    "/close": close,
    "/echo/close": close_first,
    "/drop": drop,
    "/echo/abort": abort,
    "/headers": headers,
    "/refuse": refuse,
}
special = {"/echo/wait": wait, "/echo/large": large, "/echo/keepalive": keepalive, "/frozen": frozen, "/half": half}


async def main():
    for path in paths or conversations:
        try:
            say(path, await (conversations | special)[path]())
        except Exception:
            print(json.dumps({"path": path, "error": traceback.format_exc()}), flush=True)


asyncio.run(main())
