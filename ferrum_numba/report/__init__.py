"""Reports: what the other rows compute, tested and written up."""

from ..json_values import as_json
from .comparison import (
    Comparison,
    all_layers,
    compare_checkpoints,
    compare_devices,
    compare_results,
)
from .comparison_page import comparison_page
from .journal import Journal, settings_of
from .junit import write_junit
from .layer_kind import LayerKind, layer_kinds
from .layer_page import describe_format, layer_page
from .layer_test import M_VALUES, LayerResult, Measurement, Plan, Verdict, verify_layer
from .layer_timing import KindResult, Step, Timing, steps, time_layers
from .loss import Inputs, Loss, measure_loss
from .oracle import Oracle
from .page import Page, check_extra, worst_passing, write_page
from .reference import NUMPY_DTYPES
from .run import matching, select_layers, verify_layers
from .tolerance import SAFETY

__all__ = [
    "M_VALUES",
    "NUMPY_DTYPES",
    "SAFETY",
    "Comparison",
    "Inputs",
    "Journal",
    "KindResult",
    "LayerKind",
    "LayerResult",
    "Loss",
    "Measurement",
    "Oracle",
    "Page",
    "Plan",
    "Step",
    "Timing",
    "Verdict",
    "all_layers",
    "as_json",
    "check_extra",
    "compare_checkpoints",
    "compare_devices",
    "compare_results",
    "comparison_page",
    "describe_format",
    "layer_kinds",
    "layer_page",
    "matching",
    "measure_loss",
    "select_layers",
    "settings_of",
    "steps",
    "time_layers",
    "verify_layer",
    "verify_layers",
    "worst_passing",
    "write_junit",
    "write_page",
]
