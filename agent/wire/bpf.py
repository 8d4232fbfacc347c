"""The kernel filter of a trace, in classic BPF (linux/filter.h): keeps packets with a word at one of some places."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

LOAD_WORD: Final = 0x20
AND: Final = 0x54
JUMP_EQUAL: Final = 0x15
RETURN: Final = 0x06
INSTRUCTION: Final = struct.Struct("=HBBI")


class Word(NamedTuple):
    """Four octets at an offset of the packet, and what they must be where the mask has bits."""

    offset: int
    mask: int
    value: int


def word_filter(words: Sequence[Word], snap: int) -> bytes:
    """The program as an array of struct sock_filter: `snap` octets of a packet that has one of the words, else none.

    Words ascend, since a load beyond the packet's end ends the program. At most 60 words: a jump has eight bits.
    """
    program = []
    ordered = sorted(words)
    for position, word in enumerate(ordered):
        to_keep = 3 * (len(ordered) - position - 1) + 1
        program += [
            INSTRUCTION.pack(LOAD_WORD, 0, 0, word.offset),
            INSTRUCTION.pack(AND, 0, 0, word.mask),
            INSTRUCTION.pack(JUMP_EQUAL, to_keep, 0, word.value),
        ]
    return b"".join([*program, INSTRUCTION.pack(RETURN, 0, 0, 0), INSTRUCTION.pack(RETURN, 0, 0, snap)])
