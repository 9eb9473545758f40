"""The contract of an entry: signature, sidecar, parameter block, launch configuration.

Pure Python: no GPU, no NumPy, so that a launch can be inspected anywhere.
"""

from .arrays import ArrayReference, Mapped
from .binding import Binder, Bound, Demand, Movable
from .block import ParameterBlock
from .declaration import Declaration
from .expression import Expression, expression
from .launch import LaunchConfig
from .map_form import MapForm
from .sidecar import Scratch, Sidecar, ptx_digest
from .signature import Parameter, Role, Signature
from .triton_build import TritonBuild
from .versions import cuda_for_ptx, driver_for_ptx, loader_for_ptx, runs_on

__all__ = [
    "ArrayReference",
    "Binder",
    "Bound",
    "Declaration",
    "Demand",
    "Expression",
    "LaunchConfig",
    "MapForm",
    "Mapped",
    "Movable",
    "Parameter",
    "ParameterBlock",
    "Role",
    "Scratch",
    "Sidecar",
    "Signature",
    "TritonBuild",
    "cuda_for_ptx",
    "driver_for_ptx",
    "expression",
    "loader_for_ptx",
    "ptx_digest",
    "runs_on",
]
