"""What the other rows compute, tested and written up."""

from .comparison import Comparison, all_layers, compare_checkpoints, compare_devices
from .comparison_page import comparison_page
from .journal import Journal, settings_of
from .junit import write_junit
from .layer_page import describe_format, layer_page
from .layer_test import M_VALUES, LayerResult, Measurement, Plan, Verdict, verify_layer
from .oracle import Oracle
from .page import Page, check_extra, worst_passing, write_page
from .record import as_json
from .reference import NUMPY_DTYPES
from .run import matching, select_layers, verify_layers
from .tolerance import SAFETY

__all__ = [
    "M_VALUES",
    "NUMPY_DTYPES",
    "SAFETY",
    "Comparison",
    "Journal",
    "LayerResult",
    "Measurement",
    "Oracle",
    "Page",
    "Plan",
    "Verdict",
    "all_layers",
    "as_json",
    "check_extra",
    "compare_checkpoints",
    "compare_devices",
    "comparison_page",
    "describe_format",
    "layer_page",
    "matching",
    "select_layers",
    "settings_of",
    "verify_layer",
    "verify_layers",
    "worst_passing",
    "write_junit",
    "write_page",
]
