"""The pictures of runs: numbers and numpy arrays in, one PNG out, nothing kept between calls.

`letters` (texts) and `style` (colors, panels, the file) are what all share. `curves` draws one run or several over
their epochs, `matrix` the confusion matrix, `images` predictions, augmentations and attention, `model` position
embeddings and patch filters, `search` the trials of a search, `sweeps` a sweep: of that, `settings` and `parallel`
draw the accuracies by what was swept, from `scores` and along `scales`.

Letters: n pictures, H W their pixels, C channels, K classes, L layers, P patch size.

Nothing here touches pyplot or rcParams, which all jobs of a sweep and all threads share.
"""

from .curves import plot_comparison, plot_curves
from .images import plot_attention, plot_augmentations, plot_predictions
from .matrix import plot_confusion_matrix
from .model import plot_patch_filters, plot_position_embeddings
from .search import plot_importances, plot_search_history
from .sweeps import plot_sweep

__all__ = [
    "plot_attention",
    "plot_augmentations",
    "plot_comparison",
    "plot_confusion_matrix",
    "plot_curves",
    "plot_importances",
    "plot_patch_filters",
    "plot_position_embeddings",
    "plot_predictions",
    "plot_search_history",
    "plot_sweep",
]
