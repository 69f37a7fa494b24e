"""What was sent of late, in case it never arrived.

A socket that breaks takes along what was on its way. Messages are numbered from 1 in the order
of sending, so a peer that has counted what it got can be sent the rest. Bounded in messages,
bytes and age; what has been let go can't be sent again. Nothing here knows what they say.
"""

from collections import deque

Message = str | bytes


class Replay:
    """The newest messages of one session.

    Args:
        max_messages, max_bytes: kept at most; the newest message is kept whatever its size.
        keep_seconds: older ones have surely arrived, or the socket would be closed by now.
    """

    def __init__(self, *, max_messages: int, max_bytes: int, keep_seconds: float) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._keep_seconds = keep_seconds
        self._kept: deque[tuple[float, Message]] = deque()
        self._size = 0
        self._sent = 0

    @property
    def sent(self) -> int:
        """How many messages there have been; the number of the newest."""
        return self._sent

    def note(self, message: Message, now: float) -> None:
        """`message` is about to be sent; `now` is in seconds of a monotonic clock."""
        self._sent += 1
        self._kept.append((now, message))
        self._size += len(message)
        while len(self._kept) > 1 and self._is_over(now):
            self._let_go_oldest()

    def after(self, number: int, now: float) -> list[Message] | None:
        """What comes after message `number`, which has arrived with all before it.

        None: some of it has been let go, or there has been no such message. What is returned counts as
        sent anew at `now`.
        """
        if not self._sent - len(self._kept) <= number <= self._sent:
            return None
        while len(self._kept) > self._sent - number:
            self._let_go_oldest()
        self._kept = deque((now, message) for _, message in self._kept)
        return [message for _, message in self._kept]

    def _is_over(self, now: float) -> bool:
        is_too_much = len(self._kept) > self._max_messages or self._size > self._max_bytes
        return is_too_much or now - self._kept[0][0] > self._keep_seconds

    def _let_go_oldest(self) -> None:
        _, message = self._kept.popleft()
        self._size -= len(message)
