"""What initial weights tell about themselves; torch, which reads them, is imported only when there are some."""

from ..config.initial import HUB, Origin
from ..config.schema import TrainConfig


def read_origin(config: TrainConfig) -> Origin | None:
    """Return what published weights tell about their model and their images, None if they are of no ViT.

    Raises FileNotFoundError, OSError or ValueError, with the key init.weights.
    """
    assert config.init.weights is not None
    if HUB.match(config.init.weights):  # without a network, the answer does not wait for torch
        from ..pretrained.hub import fetch_model

        fetch_model(config.init.weights)
    from ..pretrained.published import read_origin as read

    return read(config)
