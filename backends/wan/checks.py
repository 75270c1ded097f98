"""Checks of what was loaded: all tensors of its config, no others, and numbers that are finite."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import CRITICAL
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rollout.errors import BackendError

__all__ = ["check_finite", "check_report", "finite", "quiet"]


@contextmanager
def quiet(logging: Any) -> Iterator[None]:
    """Keep a library from saying what an error here says; `logging`: diffusers' or transformers' module of that name."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def finite(tensor: Tensor) -> bool:
    """Whether all of a tensor's numbers are; 40 ms for 100 million on a CPU, without a copy."""
    return not tensor.numel() or bool(torch.stack(torch.aminmax(tensor)).isfinite().all())


def check_report(part: str, folder: Path, report: Mapping[str, Any]) -> None:
    """Raise BackendError where diffusers or transformers report tensors that are missing, unexpected or of another shape.

    What is missing would be random or uninitialised memory; what is unexpected says that the part is another.
    """
    for verb, key in (
        ("lacks", "missing_keys"),
        ("has unexpected", "unexpected_keys"),
        ("has others for", "mismatched_keys"),
    ):
        names = sorted(name if isinstance(name, str) else str(name[0]) for name in report.get(key) or ())
        if names:
            raise BackendError(
                f"the {part} of {folder} does not fit its config: it {verb} {len(names)} tensors, such as {names[0]}. Get it "
                "again."
            )


def check_finite(part: str, folder: Path, model: torch.nn.Module) -> None:
    """Raise BackendError where a weight is not finite."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not finite(tensor):
            raise BackendError(f"the {part} of {folder} holds numbers that are not finite, in {name}. Get it again.")
