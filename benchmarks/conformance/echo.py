"""An echo behind the server's own listener, for a suite of others to try: prints its port, serves until SIGTERM.

One bound is widened: cases 9.3 and 9.4 send a message in up to 65,536 fragments, which the
server would refuse, and does in `tests/hostile`.
"""

import asyncio
import dataclasses
from typing import Any

import uvicorn

from mlx_websockets.server.binding import bind
from mlx_websockets.server.limits import Limits
from mlx_websockets.server.run import listener_config
from mlx_websockets.settings import Settings

LIMITS = dataclasses.replace(Limits(), max_fragments=100_000)


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    assert scope["type"] == "websocket", scope["type"]
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


def main() -> None:
    sockets = bind(Settings(host="127.0.0.1", port=0))
    print(sockets[0].getsockname()[1], flush=True)
    asyncio.run(uvicorn.Server(listener_config(echo, LIMITS)).serve(sockets))


if __name__ == "__main__":
    main()
