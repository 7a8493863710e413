"""What the first bytes of PNG and JPEG files say, read without decoding them."""

import struct
from typing import NamedTuple

_PNG = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")
_NO_FRAME = (0xC4, 0xC8, 0xCC)


class Header(NamedTuple):
    """The header of a PNG or JPEG file.

    Attributes:
      kind: "PNG" or "JPEG".
      height: in pixels.
      width: in pixels.
      bits: of a sample.
      layout: the colour type of a PNG file, the number of components of a JPEG file.
      exif: the content of its EXIF, where that precedes the pixels, else empty.
    """

    kind: str
    height: int
    width: int
    bits: int
    layout: int
    exif: bytes


def header(content: bytes) -> Header | None:
    """The header of a PNG or JPEG file; None of any other, and where it is damaged."""
    if content[:3] == b"\xff\xd8\xff":
        return _jpeg(content)
    if content[:8] == _PNG and content[12:16] == b"IHDR" and len(content) >= 26:
        width, height, bits, layout = struct.unpack_from(">IIBB", content, 16)
        return Header("PNG", height, width, bits, layout, _png_exif(content))
    return None


def _png_exif(content: bytes) -> bytes:
    position = 33
    while position + 8 <= len(content):
        length, kind = _CHUNK.unpack_from(content, position)
        if kind == b"eXIf":
            return content[position + 8 : position + 8 + length]
        if kind == b"IDAT":
            break
        position += 12 + length
    return b""


def _jpeg(content: bytes) -> Header | None:
    position, exif = 2, b""
    while position + 10 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            bits, height, width, components = struct.unpack_from(">BHHB", content, position + 4)
            return Header("JPEG", height, width, bits, components, exif)
        end = position + 2 + (content[position + 2] << 8 | content[position + 3])
        if marker == 0xE1 and content[position + 4 : position + 8] == b"Exif" and not exif:
            exif = content[position + 4 : end]
        position = end
    return None
