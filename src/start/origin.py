"""What initial weights tell about themselves; torch, which reads them, is imported only when there are some."""

from ..config.initial import Origin
from ..config.schema import TrainConfig


def read_origin(config: TrainConfig) -> Origin | None:
    """Return what published weights tell about their model and their images, None if they are of no ViT."""
    from ..pretrained.published import read_origin as read

    return read(config)
