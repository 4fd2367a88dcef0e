"""Training and evaluation: one step, one epoch, one pass over a split. No files, no plots, no configuration layout."""
