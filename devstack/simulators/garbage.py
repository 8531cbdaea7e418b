"""Malformed frames on a stream of server-sent events, by order."""

from __future__ import annotations

from collections import Counter

_COMMENT = b": \x00\x01 {]junk\r\n:\n::: data\n\n"
_HALF = b'event: conversation\ndata: {"topicName":"v2.detail.ev'
# Without an id, so that it moves no cursor.
_NO_UTF8 = b'event: routing\ndata: {"topicName":"\xff\xfe\xc3\x28","eventBody":{}}\n\n'


_KINDS = ("comment", "without_id", "no_utf8", "half")


class Garbage:
    """What precedes the next writes, in turn.

    - ``comment``: a comment of junk, to be passed over.
    - ``without_id``: the write's first event once more, but without its id: the cursor stays where it is.
    - ``no_utf8``: an event that can't be read, without an id.
    - ``half``: a field without the blank line that ends an event, then the connection breaks: was never an event.

    Attributes:
        sent: How often each was.
    """

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        self._left = 0

    def order(self, writes: int) -> None:
        """So many writes from now on."""
        self._left = writes

    def before(self, frame: bytes) -> tuple[bytes, bool]:
        """What goes out before a write that begins with this frame, and whether the connection breaks after it."""
        if not self._left:
            return b"", False
        self._left -= 1
        kind = _KINDS[self.sent.total() % len(_KINDS)]
        self.sent[kind] += 1
        without_id = frame.partition(b"\n")[2]  # the id is the first line
        junk = {"comment": _COMMENT, "without_id": without_id, "no_utf8": _NO_UTF8, "half": _HALF}[kind]
        return junk, kind == "half"
