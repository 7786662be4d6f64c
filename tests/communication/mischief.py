"""What a network does to messages, for any carrier: lost, doubled, reordered, corrupted. Used by ``Unruly`` for wires
and by ``proxy.Proxy`` for a TCP stream."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

KINDS = ("lose", "double", "reorder", "corrupt")


@dataclass
class Mischief:
    """Strikes at random, as often as it may.

    Attributes:
        kind: one of KINDS.
        chance: for each message (or piece of a stream).
        most: times in all.
        done: times so far.
    """

    kind: str
    chance: float = 0.1
    most: int = 6
    done: int = 0
    random: random.Random = field(default_factory=lambda: random.Random(11))

    def strikes(self) -> bool:
        if self.done >= self.most or self.random.random() >= self.chance:
            return False
        self.done += 1
        return True

    def corrupted(self, message: bytes) -> bytes:
        at = self.random.randrange(len(message))
        return message[:at] + bytes((message[at] ^ 1 << self.random.randrange(8),)) + message[at + 1 :]
