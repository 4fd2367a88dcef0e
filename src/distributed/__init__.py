"""Training in several processes, started by torchrun; with a single process, everything here does nothing."""
