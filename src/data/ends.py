"""Whether the content of an image file is complete, where its decoder would not tell.

A download that was cut, or filled up with zeros, decodes without an error in several formats, to gray or black. What
cannot be told from the file: a BMP, PPM, AVIF or raw TIFF that ends in zeros, and an .npy of the right length.
"""

import math

ENDS_IN_ZEROS = "WebP files end in zeros: an even area at the end of the picture, or a download that was cut"
ARITHMETIC = range(0xC9, 0xD0)  # frames of JPEG whose codes may be shorter than a bit
FRAMES = (0xC0, 0xC1, 0xC2, *ARITHMETIC)


def check_end(content: bytes, kind: str) -> list[str]:
    """Raise OSError for content that is cut; kind: Pillow's name of the format. Content after the end is allowed.

    Returns a note where that is not certain.
    """
    if kind == "PNG" and not _has_png_end(content):
        raise OSError("image file is truncated: the end of the PNG is missing")
    if kind in ("JPEG", "MPO"):
        _check_jpeg(content)
    if kind == "WEBP":
        end = int.from_bytes(content[4:8], "little") + 8
        if len(content) < end:
            raise OSError(f"image file is truncated: {len(content):,} of {end:,} bytes")
        return [] if any(content[end - 64 : end]) else [ENDS_IN_ZEROS]
    return []


def _has_png_end(content: bytes) -> bool:
    """Return whether the chunks of a PNG lead to its last one, IEND: its length, name, data and checksum each."""
    position = 8
    while position + 8 <= len(content):
        if content[position + 4 : position + 8] == b"IEND":
            return True
        position += 12 + int.from_bytes(content[position : position + 4], "big")
    return False


def _check_jpeg(content: bytes) -> None:
    scan, blocks, bits = _read_jpeg(content)
    # The last of these marks: in a progressive file, the bytes between scans may look like one.
    end = content.rfind(b"\xff\xd9", scan)
    if end < 0:
        raise OSError("image file is truncated: the end of the JPEG is missing")
    if 8 * (end - scan) < bits * blocks:
        raise OSError(f"image file is truncated: {end - scan:,} bytes cannot hold the picture that its header claims")


def _read_jpeg(content: bytes) -> tuple[int, int, int]:
    """Return where the pixels of a JPEG begin, its number of blocks of 8 x 8 px, and the least bits of each.

    Skips earlier segments, embedded thumbnails included, by length. A block takes at least a bit for its mean and, but
    for progressive files, one for the end of the block.
    """
    position, blocks, bits = 2, 0, 0
    while position + 4 <= len(content):
        marker = content[position + 1]
        if content[position] != 0xFF or marker == 0xFF:
            position += 1
        elif marker == 0xDA:
            return position, blocks, bits
        elif marker == 0x01 or 0xD0 <= marker <= 0xD9:  # markers without a segment
            position += 2
        else:
            if marker in FRAMES:
                blocks = _count_blocks(content[position + 4 : position + 64])
                bits = 0 if marker in ARITHMETIC else 1 if marker == 0xC2 else 2
            position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return len(content), 0, 0


def _count_blocks(frame: bytes) -> int:
    """Return the number of blocks of a frame: precision, height, width, and the sampling of each component."""
    if len(frame) < 6:
        return 0
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    factors = [(byte >> 4, byte & 15) for byte in frame[7 : 7 + 3 * frame[5] : 3]]
    across, down = (max((factor[side] for factor in factors), default=0) for side in (0, 1))
    if not across or not down:
        return 0
    return sum(math.ceil(width * right / across / 8) * math.ceil(height * below / down / 8) for right, below in factors)
