"""The content of photos: a hash that tells whether a photo is still the one that was labelled."""

from __future__ import annotations

import hashlib

from .shards import locate

HASH_BYTES = 16
PIECE = 1 << 20  # bytes that are read at a time


def content_hash(file: str) -> bytes:
    """The BLAKE2b hash (16 bytes) of a photo's bytes. `file` may name a member of a shard. Raises OSError as `open` does.

    Dates and names do not enter it, so that a copied or unpacked photo has the hash of the original.
    """
    place = locate(file)
    digest, left = hashlib.blake2b(digest_size=HASH_BYTES), place.size
    with open(place.file, "rb") as stream:
        stream.seek(place.start)
        while left > 0 and (piece := stream.read(min(PIECE, left))):
            digest.update(piece)
            left -= len(piece)
    return digest.digest()
