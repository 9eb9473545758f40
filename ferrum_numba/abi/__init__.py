"""What an entry expects: signature, sidecar, parameter block, launch configuration.

Pure Python: no GPU, no NumPy, so that a launch can be inspected anywhere.
"""

from .binding import ArrayReference, Binder, Bound
from .block import ParameterBlock
from .expression import Expression, expression
from .launch import LaunchConfig
from .sidecar import Declaration, Scratch, Sidecar, ptx_digest
from .signature import Parameter, Role, Signature
from .versions import cuda_for_ptx, driver_for_ptx, runs_on

__all__ = [
    "ArrayReference",
    "Binder",
    "Bound",
    "Declaration",
    "Expression",
    "LaunchConfig",
    "Parameter",
    "ParameterBlock",
    "Role",
    "Scratch",
    "Sidecar",
    "Signature",
    "cuda_for_ptx",
    "driver_for_ptx",
    "expression",
    "ptx_digest",
    "runs_on",
]
