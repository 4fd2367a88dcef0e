"""The figures of runs: numbers and numpy arrays in, one PNG out, no state between calls.

`letters` (text) and `style` (colors, panels, saving) are shared. `curves` draws one or several runs by epoch, `matrix`
the confusion matrix, `images` predictions, augmentations and attention, `model` position embeddings and patch filters,
`search` the trials of a search, `sweeps` a sweep: for it, `settings` and `parallel` draw accuracies by swept setting,
with `scores` and `scales`.

Letters: n images, H W their pixels, C channels, K classes, L layers, P patch size.

Nothing here uses pyplot or rcParams, which all jobs of a sweep and all threads share.
"""
