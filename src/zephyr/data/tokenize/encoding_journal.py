"""What an encoder has made of rows, kept in a file while they are prepared, so that a killed preparation goes on.

Rows come in the same order again, so the file is read in step with them: what lies in it is not encoded a second time.
Filters and counts, which depend on all earlier rows, are done again; they take a small part of the time.
"""

import hashlib
import json
import logging
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

from zephyr.data.tokenize.encoding import Encoded, EncodedTurns, RowEncoder
from zephyr.data.tokenize.plain_text import TokenIds
from zephyr.errors import ZephyrError
from zephyr.recipe.objective_section import LossOn
from zephyr.records.messages import NO_INPUTS, Message, TemplateInputs

_log = logging.getLogger(__name__)
# Of a call: the hash of what was encoded, the bytes that follow, and their checksum.
_HEADER = struct.Struct("<16sQI")
# Of a sequence: its tokens, and the answers that are learnt in it.
_SEQUENCE = struct.Struct("<II")
# So many calls of an earlier process are made again and compared: another tokenizer or version would differ.
_COMPARED_CALLS = 8


class _Call(NamedTuple):
    """A call that lies in the file."""

    key: bytes
    result: list[EncodedTurns]


class EncodingJournal:
    """An encoder whose results are kept in `file`, and taken from there if an earlier process has left it.

    A context manager. The file stays for whoever stores the rows to remove it; after an error of the rows or settings
    themselves it is removed here.
    """

    def __init__(self, encoder: RowEncoder, file: Path) -> None:
        self._encoder = encoder
        self._path = file
        self._file = file.open("r+b" if file.exists() else "w+b")
        #: The calls that an earlier process has made.
        self.num_replayed = 0
        self._is_replaying = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if isinstance(error, ZephyrError):
            self._path.unlink()

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids that end an answer."""
        return self._encoder.stop_ids

    @property
    def end_ids(self) -> TokenIds:
        """The ids that stand between a completion and the end of its dialogue, (n,)."""
        return self._encoder.end_ids

    def text(self, text: str) -> Encoded:
        """As the encoder's own."""
        return self._kept([text], lambda: [EncodedTurns((), self._encoder.text(text))])[0].encoded

    def dialogues(
        self, messages: Sequence[Message], inputs: TemplateInputs = NO_INPUTS, *, loss_on: LossOn
    ) -> list[EncodedTurns]:
        """As the encoder's own."""
        return self._kept(
            [messages, inputs, loss_on], lambda: self._encoder.dialogues(messages, inputs, loss_on=loss_on)
        )

    def prompt(self, messages: Sequence[Message], inputs: TemplateInputs = NO_INPUTS) -> TokenIds:
        """As the encoder's own."""
        return self._kept([messages, inputs], lambda: _plain(self._encoder.prompt(messages, inputs)))[0].encoded.ids

    def completion_of(
        self, answer: Message, prompt: Sequence[Message], inputs: TemplateInputs = NO_INPUTS
    ) -> TokenIds:  # fmt: skip
        """As the encoder's own."""
        found = self._kept(
            [answer, prompt, inputs], lambda: _plain(self._encoder.completion_of(answer, prompt, inputs))
        )
        return found[0].encoded.ids

    def _kept(self, given: object, encode: Callable[[], list[EncodedTurns]]) -> list[EncodedTurns]:
        key = hashlib.blake2b(json.dumps(given).encode(), digest_size=16).digest()
        if self._is_replaying:
            begin = self._file.tell()
            call = self._next_call()
            if call is not None and call.key == key and self._is_right(call, encode):
                self.num_replayed += 1
                return call.result
            self._file.seek(begin)
        result = encode()  # a row that cannot be encoded has left nothing in the file, and leaves it where it is
        if self._is_replaying:
            # From here on there is nothing more, or the half of a call, or what was made of other rows.
            self._is_replaying = False
            self._file.truncate()
            if self.num_replayed:
                _log.info("tokenising goes on after %s texts of an earlier process", f"{self.num_replayed:,}")
        content = b"".join(map(_packed, result))
        self._file.write(_HEADER.pack(key, len(content), zlib.crc32(content)) + content)
        return result

    def _is_right(self, call: _Call, encode: Callable[[], list[EncodedTurns]]) -> bool:
        if self.num_replayed >= _COMPARED_CALLS:
            return True
        return [_packed(one) for one in encode()] == [_packed(one) for one in call.result]

    def _next_call(self) -> _Call | None:
        """The next call of the file; None at its end, or where it is damaged."""
        header = self._file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            return None
        key, num_bytes, checksum = _HEADER.unpack(header)
        content = self._file.read(num_bytes)
        if len(content) < num_bytes or zlib.crc32(content) != checksum:
            return None
        return _Call(key, _unpacked(content))


def _plain(ids: TokenIds) -> list[EncodedTurns]:
    """Ids of which nothing more is known."""
    return [EncodedTurns((), Encoded(ids, np.zeros(len(ids), np.bool_), np.zeros(len(ids), np.int8)))]


def _packed(turns: EncodedTurns) -> bytes:
    ids, scored, roles = turns.encoded
    lengths = _SEQUENCE.pack(len(ids), len(turns.answers))
    answers = np.array(turns.answers, "<u4")
    arrays = (answers, ids.astype("<i4"), roles.astype("|i1"), np.packbits(scored))
    return lengths + b"".join(array.tobytes() for array in arrays)


def _unpacked(content: bytes) -> list[EncodedTurns]:
    found: list[EncodedTurns] = []
    place = 0
    while place < len(content):
        num_ids, num_answers = _SEQUENCE.unpack_from(content, place)
        place += _SEQUENCE.size
        answers = np.frombuffer(content, "<u4", num_answers, place)
        place += answers.nbytes
        ids = np.frombuffer(content, "<i4", num_ids, place)
        place += ids.nbytes
        roles = np.frombuffer(content, "|i1", num_ids, place)
        place += roles.nbytes
        bits = np.frombuffer(content, "|u1", -(-num_ids // 8), place)
        place += bits.nbytes
        scored = np.unpackbits(bits, count=num_ids).astype(np.bool_)
        encoded = Encoded(ids.astype(np.int64), scored, roles.astype(np.int8))
        found.append(EncodedTurns(tuple(map(int, answers)), encoded))
    return found
