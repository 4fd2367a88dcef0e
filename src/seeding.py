"""Stateless randomness: every draw is a function of what it is for, never of what was drawn before.

A run that continues at step n then draws what it would have drawn without the interruption.
"""

import hashlib

import torch


def seed_for(*key: str | int) -> int:
    """Return a 63-bit seed for a key such as ("augment", seed, epoch, step); equal keys, equal seeds."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator_for(*key: str | int) -> torch.Generator:
    """Return a CPU generator for the key; the same numbers whatever device the training runs on."""
    return torch.Generator().manual_seed(seed_for(*key))
