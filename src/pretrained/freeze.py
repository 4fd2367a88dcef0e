"""Parameters that are not trained: `init.freeze`."""

from torch import nn

from ..optim import layer_of
from .load import LoadReport


def freeze(model: nn.Module, what: str | int | None) -> int:
    """Exclude parameters from training: "backbone": all but the head; a number n: the embedding and the first n blocks.

    Returns the number of trainable parameters. Build the optimizer afterwards.
    """
    num_blocks = len(list(model.get_submodule("blocks").children()))
    if not (what in (None, "backbone") or (isinstance(what, int) and 0 <= what <= num_blocks)):
        raise ValueError(f"init.freeze={what} is not known; allowed: backbone, a number up to {num_blocks}, null")
    for name, parameter in model.named_parameters():
        in_backbone = what == "backbone" and not name.startswith("head.")
        if in_backbone or (isinstance(what, int) and layer_of(name, num_blocks + 1) <= what):
            parameter.requires_grad_(False)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def list_untrained(model: nn.Module, report: LoadReport | None) -> list[str]:
    """Return the frozen parameters that were not loaded, so that they stay random; report: what was loaded, if any."""
    loaded = set() if report is None else {*report.loaded, *report.resized}
    return [name for name, value in model.named_parameters() if not value.requires_grad and name not in loaded]
