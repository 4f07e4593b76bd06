"""A server of websockets. The first part of the path selects what it does."""

import asyncio
import json
from http import HTTPStatus

from websockets.exceptions import ConnectionClosed
from websockets.legacy.server import serve


async def echo(ws):
    async for message in ws:
        await ws.send(message)


async def ping(ws):
    await (await ws.ping(b"are you there?"))
    await ws.send("pong")
    await ws.wait_closed()


async def close(ws):
    await ws.close(4001, "enough")


async def drop(ws):
    ws.transport.abort()


async def headers(ws):
    names = ["host", "x-real-ip", "x-forwarded-for", "x-forwarded-proto", "upgrade"]
    await ws.send(json.dumps({name: ws.request_headers.get(name) for name in names}))
    await ws.wait_closed()


async def handle(ws):
    sent = [name for name, _ in ws.request_headers.raw_items()]
    for name in ["Sec-WebSocket-Key", "Sec-WebSocket-Version", "Upgrade", "Connection"]:
        assert name in sent, f"no {name}, as RFC 6455 writes it, in {sent}"
    handlers = {"echo": echo, "ping": ping, "close": close, "drop": drop, "headers": headers}
    try:
        await handlers[ws.path.split("/")[1]](ws)
    except ConnectionClosed:
        pass


async def process_request(path, _):
    if path == "/refuse":
        return HTTPStatus.UNAUTHORIZED, [("WWW-Authenticate", "Bearer")], b"who are you?\n"


async def main():
    async with serve(handle, "127.0.0.1", 0, subprotocols=["chat.v2"], max_size=64 << 20, process_request=process_request) as server:
        host, port = server.sockets[0].getsockname()
        print(json.dumps({"path": "", "result": f"{host}:{port}"}), flush=True)
        await asyncio.Future()


asyncio.run(main())
