"""Weights of an earlier training: read a file, copy what fits into a model, freeze parameters."""
