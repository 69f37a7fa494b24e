"""A worker without a model, run as a program: `scripted_worker.py MANNER [ARGUMENT] FD`.

MANNER says how it loads; once ready, it does what the last message of each request says.
It speaks the real channel. Nothing here is a test.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable

from mlx_websockets.engine.channel import BlockingChannel, ChannelClosed
from mlx_websockets.engine.messages import (
    Cancel,
    Heartbeat,
    Load,
    LoadFailed,
    Loading,
    Memory,
    ModelInfo,
    Ready,
    Stop,
    Submit,
    Updates,
)
from mlx_websockets.generation import Delta, Failed, Finished, GenerationRequest, Started, Update, Usage

HEARTBEAT_SECONDS = 0.05


def spin(_: socket.socket) -> None:
    while True:
        pass


def send_garbage(sock: socket.socket) -> None:
    sock.sendall(b"\0\0\0\1\xc1")
    time.sleep(3600)


FATES: dict[str, Callable[[socket.socket], None]] = {
    "abort": lambda _: os.abort(),
    "kill": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "hang": lambda _: time.sleep(3600),
    "spin": spin,
    "garbage": send_garbage,
}
"""What becomes of a worker that was asked for it, after it has said the other words."""


class Worker:
    def __init__(self, sock: socket.socket, manner: str) -> None:
        self.sock = sock
        self.channel = BlockingChannel(sock)
        self.is_stubborn = manner == "stubborn"
        self.held: set[int] = set()
        self.tokens = 0
        self.wants_renewal = False

    def serve(self) -> None:
        while True:
            match self.channel.receive(HEARTBEAT_SECONDS):
                case Submit(request):
                    self.answer(request)
                case Cancel(id):
                    self.held.discard(id)
                case Stop() if not self.is_stubborn:
                    return
            self.channel.send(
                Heartbeat(
                    running=len(self.held),
                    waiting=0,
                    memory=Memory(active=1),
                    tokens=self.tokens,
                    wants_renewal=self.wants_renewal,
                )
            )

    def answer(self, request: GenerationRequest) -> None:
        wish, *words = request.messages[-1].text.split()
        self.say(Started(request.id))
        if wish in FATES:
            self.say(*(Delta(request.id, word) for word in words))
            FATES[wish](self.sock)
        match wish:
            case "say":
                self.say(*(Delta(request.id, word) for word in words))
                self.say(Finished(request.id, "stop", Usage(output_tokens=len(words))))
            case "seed":
                self.say(Delta(request.id, str(request.choice.seed)), Finished(request.id, "stop"))
            case "fail":
                self.say(Failed(request.id, "context_full", "Too long."))
            case "grow":
                self.wants_renewal = True
                self.say(Finished(request.id, "stop"))
            case "hold":
                self.held.add(request.id)
                self.say(Delta(request.id, "held"))

    def say(self, *updates: Update) -> None:
        self.tokens += sum(isinstance(update, Delta) for update in updates)
        self.channel.send(Updates(list(updates)))


def load(channel: BlockingChannel, manner: str, argument: str) -> None:
    message = channel.receive(60)
    assert isinstance(message, Load), message
    channel.send(Loading("weights", 1, 2, "bytes"))
    match manner:
        case "fails":
            channel.send(LoadFailed(argument, "No such model.", "Try another."))
            sys.exit(1)
        case "exits":
            print("loading as well as I can", flush=True)
            print("something terrible happened", file=sys.stderr, flush=True)
            sys.exit(3)
        case "is-killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "is-silent":
            time.sleep(3600)
        case "once":
            once(argument)
        case "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    channel.send(Loading("weights", 2, 2, "bytes"))
    info = ModelInfo(
        id=message.spec.model,
        sees=True,
        max_images=4,
        context_tokens=512,
        backend="cpu",
        weights_bytes=7,
        versions={},
    )
    channel.send(Ready(info, Memory(active=7)))


def once(marker: str) -> None:
    """Load the first time; die at every later one, while the marker is there."""
    if os.path.exists(marker):
        sys.exit(9)
    with open(marker, "x"):
        pass


def main(manner: str, *rest: str) -> None:
    *argument, fd = rest
    worker = Worker(socket.socket(fileno=int(fd)), manner)
    try:
        load(worker.channel, manner, *argument or [""])
        worker.serve()
    except ChannelClosed:
        return


if __name__ == "__main__":
    main(*sys.argv[1:])
