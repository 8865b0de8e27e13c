"""The output of an exec as Docker sends it: frames of two streams, or with a terminal the bytes alone. Pure."""

from __future__ import annotations

_HEAD = 8
_STDOUT, _STDERR, _SYSTEM = 1, 2, 3  # the last is what the engine itself has to say


def demultiplex(content: bytes) -> tuple[str, str]:
    """Standard output and standard error. What does not look like frames is output of a terminal."""
    streams: dict[int, list[bytes]] = {number: [] for number in (0, _STDOUT, _STDERR, _SYSTEM)}
    at = 0
    while at < len(content):
        head = content[at : at + _HEAD]
        if len(head) < _HEAD or head[0] not in streams or head[1:4] != b"\0\0\0":
            if at == 0:
                return content.decode("utf-8", "replace"), ""
            break  # the rest was cut off
        size = int.from_bytes(head[4:], "big")
        streams[head[0]].append(content[at + _HEAD : at + _HEAD + size])
        at += _HEAD + size
    return (
        b"".join(streams[_STDOUT]).decode("utf-8", "replace"),
        b"".join(streams[_STDERR] + streams[_SYSTEM]).decode("utf-8", "replace"),
    )
