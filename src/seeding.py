"""Stateless randomness: every draw is a function of its purpose, never of earlier draws.

So a run resumed at step n draws the same numbers as without the interruption.
"""

import hashlib

import torch


def seed_for(*key: str | int) -> int:
    """Return a 63-bit seed for a key such as ("augment", seed, epoch, step); equal keys give equal seeds."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator_for(*key: str | int) -> torch.Generator:
    """Return a generator for the key, on the CPU, so that the numbers do not depend on the training device."""
    return torch.Generator().manual_seed(seed_for(*key))
