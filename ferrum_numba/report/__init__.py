"""What the other rows compute, tested and written up."""

from .layer_test import (
    M_VALUES,
    TOLERANCE,
    LayerResult,
    Measurement,
    Verdict,
    measure_layer,
    select_layers,
    verify_checkpoint,
    verify_layer,
)

__all__ = [
    "M_VALUES",
    "TOLERANCE",
    "LayerResult",
    "Measurement",
    "Verdict",
    "measure_layer",
    "select_layers",
    "verify_checkpoint",
    "verify_layer",
]
