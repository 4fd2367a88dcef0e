"""The pictures of runs: numbers and numpy arrays in, one PNG out, nothing kept between calls.

`letters` (texts) and `style` (colors, panels, the file) are what all share. `curves` draws runs over their epochs,
`matrix` the confusion matrix, `images` predictions, augmentations and attention, `model` position embeddings and
patch filters.

Letters: n pictures, H W their pixels, C channels, K classes, L layers, P patch size.

Nothing here touches pyplot or rcParams, which all jobs of a sweep and all threads share.
"""

from .curves import plot_curves
from .images import plot_attention, plot_augmentations, plot_predictions
from .matrix import plot_confusion_matrix
from .model import plot_patch_filters, plot_position_embeddings

__all__ = [
    "plot_attention",
    "plot_augmentations",
    "plot_confusion_matrix",
    "plot_curves",
    "plot_patch_filters",
    "plot_position_embeddings",
    "plot_predictions",
]
