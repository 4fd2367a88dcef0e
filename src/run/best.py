"""A run's model with its best weights; needs torch, unlike the rest of what reads runs."""

from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, load_file

from ..config.schema import ModelConfig
from ..config.size import estimate_parameters
from ..machine.memory import format_bytes
from ..model import VisionTransformer
from .files import BEST


def load_best(folder: Path, config: ModelConfig, content: bytes | None = None) -> VisionTransformer:
    """Return the model of a run with its best weights, on the CPU, in evaluation mode. Raises ValueError if damaged.

    content: of the file of weights, if it was read already.
    """
    parameters = estimate_parameters(config)
    size = (folder / BEST).stat().st_size if content is None else len(content)
    if 4 * parameters > 2 * size + 2**20:  # before a model that large is built
        raise ValueError(
            f"{folder / BEST} has {format_bytes(size)}, but the model of this run has {parameters:,} parameters"
        )
    model = VisionTransformer(**asdict(config)).eval()
    try:
        model.load_state_dict(load_file(folder / BEST) if content is None else load(content))
    except (SafetensorError, RuntimeError) as error:
        lines = [line.strip().rstrip(".") for line in str(error).splitlines()[:2]]
        reason = ": ".join(filter(None, lines))[:200]
        raise ValueError(f"the weights of {folder} are damaged or of another model: {reason}") from error
    return model
