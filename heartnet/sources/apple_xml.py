"""Reads the XML of an Apple Health export as pieces of text that cut no tag in two, and the attributes of a tag.

It is no general XML parser. It relies on what holds in every well-formed document, that `<` stands nowhere inside a
tag, so that tags are found by searching, several times as fast as a parser builds a tree, and a damaged tag costs
itself alone. Comments, CDATA sections and processing instructions are taken out first. Nothing is ever fetched or
expanded: the document type may declare elements and attributes, as genuine exports do, but no entities.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from heartnet.errors import HeartnetError

_READ_BYTES = 1 << 20  # small enough for a processor's cache, in which a text is searched several times
_BEGIN_BYTES = 1 << 12
_LONGEST = 1 << 24  # bytes of a tag or comment
_LONGEST_PROLOG = 1 << 20
_NEAR = 1 << 16  # so near to the end of a piece a record is left to the next, with what is nested in it

_MARKED = re.compile(rb"<[!?C]")  # a comment, CDATA, an instruction, perhaps a correlation
_MARKUP = re.compile(rb"<[!?]")
_COMMENT = re.compile(rb"<!--.*?-->", re.DOTALL)
_NO_ELEMENTS = ((b"<!--", b"-->"), (b"<![CDATA[", b"]]>"), (b"<?", b"?>"))
_BETWEEN = rb"(?:\s++|<\?.*?\?>|<!--.*?-->)*+"
_SUBSET = rb"(?:[^\]<]++|<!--.*?-->|<(?!!--)|\](?!\s*+>))*+"
_PROLOG = re.compile(
    _BETWEEN + rb"(?:<!DOCTYPE([^\[>]*+)(?:\[(" + _SUBSET + rb")\]\s*+)?>)?" + _BETWEEN + rb"(?=<([^\s/>!?<]++)[\s/>])",
    re.DOTALL,
)
_CORRELATION = re.compile(rb"<Correlation(?=[\s>])")
_TAG = re.compile(
    rb"""<[^\s/>!?<"'=]++((?:\s++[^\s=<>"'/]++\s*+=\s*+(?:"[^"<]*+"|'[^'<]*+'))*+)\s*+/?>""",
)
_ATTRIBUTE = re.compile(rb"""([^\s=<>"'/]++)\s*+=\s*+(?:"([^"<]*+)"|'([^'<]*+)')""")
_REFERENCE = re.compile(rb"&(?:#(\d{1,9}+)|#x([0-9a-fA-F]{1,8}+)|(\w++));|&")
_ENTITIES = {b"lt": b"<", b"gt": b">", b"amp": b"&", b"quot": b'"', b"apos": b"'"}
_ENCODINGS = ("ascii", "utf-16", "utf-16-le", "utf-16-be", "iso8859-1", "cp1252")
_DECLARED = re.compile(rb"""<\?xml\s[^>]*?encoding\s*=\s*["']([\w.:-]+)["']""")


class Document:
    """An XML document, read once from its beginning.

    Iterating gives the text after the prolog as UTF-8, in pieces that begin with a tag and hold whole tags, without
    comments and without `<Correlation>` elements, whose records stand in the document a second time.

    Attributes:
        root: name of the root element.
        correlations: text of the last piece's correlations, which were taken out.
        failed: why the file could not be read to its end, None if it could.
        ended: whether the root element was closed, once all was read.
    """

    def __init__(self, stream: io.BufferedIOBase, name: str) -> None:
        """Read the prolog.

        Args:
            name: of the file, for messages.

        Raises:
            HeartnetError: if this is no XML, in an encoding that no export has, or if it declares entities.
        """
        self.name = name
        self.root = ""
        self.correlations = b""
        self.failed: str | None = None
        self.ended = False
        self._inside = False  # a correlation
        self._stream = stream
        begins = stream.read(_BEGIN_BYTES)
        self._decoder = _decoder(begins, name)
        self._begin = self._read_prolog(begins)

    def _read_prolog(self, data: bytes) -> bytes:
        text = self._decoded(data).removeprefix(codecs.BOM_UTF8)
        if not text.lstrip().startswith(b"<"):
            raise HeartnetError(f"{self.name} is not XML: it begins with {data[:20]!r}")
        while (prolog := _PROLOG.match(text)) is None:
            more = self._stream.read(1 << 16) if len(text) < _LONGEST_PROLOG else b""
            if not more:
                self._refuse_entities(text)
                raise HeartnetError(f"{self.name} is not an Apple Health export: no XML element was found in it")
            text += self._decoded(more)
        self._refuse_entities(_COMMENT.sub(b"", prolog[2] or b""))
        self.root = prolog[3].decode("utf-8", "replace")
        if prolog[1] and re.search(rb"\b(SYSTEM|PUBLIC)\b", prolog[1]):
            raise HeartnetError(
                f"{self.name} names a document type in another file ({prolog[1].decode(errors='replace').strip()!r}), "
                "which no Apple Health export does; it is not fetched, and the file not read"
            )
        return text[prolog.end() :]

    def _refuse_entities(self, text: bytes) -> None:
        if b"<!ENTITY" in text:
            raise HeartnetError(
                f"{self.name} declares XML entities (<!ENTITY …>), which no Apple Health export does; it is not read, "
                "as they serve to fetch other files or to fill the memory"
            )

    def _decoded(self, data: bytes) -> bytes:
        return data if self._decoder is None else self._decoder.decode(data).encode("utf-8", "replace")

    def _texts(self) -> Iterator[bytes]:
        """Yield what the file holds; the next piece is read, and inflated, while the last one is worked on."""
        yield self._begin
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(self._stream.read, _READ_BYTES)
            while True:
                try:
                    data = ahead.result()
                except HeartnetError as error:
                    self.failed = str(error)
                    return
                if not data:
                    return
                ahead = pool.submit(self._stream.read, _READ_BYTES)
                yield self._decoded(data)

    def uncleaned(self) -> Iterator[bytes]:
        """Yield the pieces with comments and correlations, which is faster."""
        rest = b""
        for text in self._texts():
            text = rest + text
            at = _last_tag(text) if len(text) < _LONGEST else len(text)
            yield text[:at]
            rest = text[at:]
        yield rest

    def __iter__(self) -> Iterator[bytes]:
        """Yield the pieces.

        Raises:
            HeartnetError: for markup that no export has: declarations after the prolog, endless tags or comments.
        """
        rest = b""
        for text in self._texts():
            text = rest + text
            marked = _MARKED.search(text) is not None
            text, rest = self._without_markup(text) if marked else (text, b"")
            if not rest:
                at = _last_tag(text)
                text, rest = text[:at], text[at:]
            if len(rest) > _LONGEST:
                raise HeartnetError(f"{self.name} holds a tag or comment of over {_LONGEST:,} bytes: is it damaged?")
            self.correlations = b""
            yield self._without_correlations(text) if marked or self._inside else text
        self.ended = b"</" + self.root.encode() in rest
        yield b"" if _MARKUP.match(rest) else self._without_correlations(rest)

    def _without_markup(self, text: bytes) -> tuple[bytes, bytes]:
        """Return the text without comments and the like, up to one that has no end yet, and that one."""
        kept, at = [], 0
        while (found := _MARKUP.search(text, at)) is not None:
            start = found.start()
            kept.append(text[at:start])
            opening, closing = next((pair for pair in _NO_ELEMENTS if text.startswith(pair[0], start)), (b"", b""))
            if not opening and not any(pair[0].startswith(text[start:]) for pair in _NO_ELEMENTS):
                found_there = text[start : start + 20]
                raise HeartnetError(
                    f"{self.name} holds a declaration outside its prolog ({found_there!r}); expected elements"
                )
            end = text.find(closing, start + len(opening)) if opening else -1
            if end < 0:
                return b"".join(kept), text[start:]
            at = end + len(closing)
        return b"".join([*kept, text[at:]]), b""

    def _without_correlations(self, text: bytes) -> bytes:
        kept, taken, at = [], [], 0
        while at < len(text):
            if self._inside:
                end = text.find(b"</Correlation", at)
                self._inside = end < 0
                taken.append(text[at : end if end >= 0 else len(text)])
            else:
                found = _CORRELATION.search(text, at)
                end = found.start() if found else -1
                kept.append(text[at : end if end >= 0 else len(text)])
                if end >= 0:
                    tag = _TAG.match(text, end)
                    self._inside = tag is not None and not tag[0].endswith(b"/>")
                    end = tag.end() if tag else end + 1
            at = end if end >= 0 else len(text)
        self.correlations = b"".join(taken)
        return b"".join(kept)


def tags_with(text: bytes, word: bytes) -> Iterator[int]:
    """Yield where the tags begin that a word stands in, or behind; several times as fast as a regular expression."""
    at = text.find(word)
    while at >= 0:
        start, after = text.rfind(b"<", 0, at), text.find(b"<", at)
        if start >= 0:
            yield start
        at = text.find(word, after) if after >= 0 else -1


def attributes(text: bytes, start: int) -> dict[str, bytes] | None:
    """Return the attributes of the tag that starts there, references not replaced; None if it is damaged."""
    tag = _TAG.match(text, start)
    if tag is None:
        return None
    return {key.decode("utf-8", "replace"): double or single for key, double, single in _ATTRIBUTE.findall(tag[1])}


def unescape(text: bytes, name: str) -> bytes:
    """Return an attribute's text with its character and entity references replaced.

    Raises:
        HeartnetError: for an entity that XML does not define itself; `name` is the file's.
    """

    def replaced(found: re.Match[bytes]) -> bytes:
        decimal, hexadecimal, entity = found.groups()
        if entity in _ENTITIES:
            return _ENTITIES[entity]
        if entity is not None or found[0] == b"&":
            raise HeartnetError(
                f"{name} refers to an unknown XML entity in {text[:60]!r}; expected only those that XML defines itself"
            )
        code = int(decimal) if decimal else int(hexadecimal, 16)
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            code = 0xFFFD
        return chr(code).encode()

    return _REFERENCE.sub(replaced, text) if b"&" in text else text


def _last_tag(text: bytes) -> int:
    """Return where the last record begins if that is near, as what is nested in it stays with it, or the last tag."""
    at = text.rfind(b"<Record", max(0, len(text) - _NEAR))
    return at if at >= 0 else max(text.rfind(b"<"), 0)


def _decoder(begins: bytes, name: str) -> codecs.IncrementalDecoder | None:
    """Return a decoder of the document's encoding, None for UTF-8, which is read as it is."""
    if begins.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return codecs.getincrementaldecoder("utf-16")("replace")
    if begins.startswith((b"<\0", b"\0<")):
        return codecs.getincrementaldecoder("utf-16-le" if begins[0] else "utf-16-be")("replace")
    declared = _DECLARED.match(begins.removeprefix(codecs.BOM_UTF8))
    if declared is None:
        return None
    encoding = declared[1].decode()
    try:
        known = codecs.lookup(encoding).name
    except LookupError:
        known = ""
    if known == "utf-8":
        return None
    if known not in _ENCODINGS:
        raise HeartnetError(f"{name} is written in the encoding {encoding!r}; expected UTF-8, as exports are")
    return codecs.getincrementaldecoder(known)("replace")
