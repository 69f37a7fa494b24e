"""Talk to an mlx-websockets server.

    from mlx_websockets.client import connect_sync

    with connect_sync("ws://localhost:8765") as mlx:
        print(mlx.ask("What is in the picture?", images=["cat.jpg"]).text())

`connect` is the same for asyncio. No model and no MLX is needed where this runs.
"""

from mlx_websockets.client.aio import Client, connect
from mlx_websockets.client.discovery import discover
from mlx_websockets.client.errors import (
    CannotConnect,
    ClientError,
    ConnectionLost,
    OutboxFull,
    ReplyError,
    UnknownPicture,
)
from mlx_websockets.client.replies import Candidate, Piece, Reply, Result
from mlx_websockets.client.sync import SyncClient, SyncReply, connect_sync
from mlx_websockets.protocols.native_schema import ModelProgress, ModelState

__all__ = [
    "Candidate",
    "CannotConnect",
    "Client",
    "ClientError",
    "ConnectionLost",
    "ModelProgress",
    "ModelState",
    "OutboxFull",
    "Piece",
    "Reply",
    "ReplyError",
    "Result",
    "SyncClient",
    "SyncReply",
    "UnknownPicture",
    "connect",
    "connect_sync",
    "discover",
]
