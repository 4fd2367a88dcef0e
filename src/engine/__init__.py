"""Training and evaluation: a step, an epoch, a pass over a split. No files, no plots, no configuration."""
