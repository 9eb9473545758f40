"""Causes of wrong launches by name: what each is, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """A named cause.  what: a clause for people; advice: what to do."""

    what: str
    advice: str


CAUSES: Mapping[str, Cause] = {
    # The parameter block
    "parameter-missing": Cause(
        "a parameter is missing, and those behind it moved up",
        "hand over every parameter of the PTX, in its order",
    ),
    "parameter-extra": Cause(
        "there is a parameter too many, and those behind it moved down",
        "leave out what the PTX does not declare",
    ),
    "argument-misspelt": Cause(
        "an argument's name is none of the kernel's", "spell it as the kernel's signature does"
    ),
    "argument-refused": Cause(
        "an argument is not what the kernel takes", "pass what the message asks for"
    ),
    "scratch-missing": Cause(
        "the scratch pointers that Triton appends are missing",
        "append one 8-byte pointer for each scratch parameter, NULL where its size is 0",
    ),
    "integers-too-narrow": Cause(
        "an 8-byte integer was written as 4 bytes, the rest is left over from before",
        "write each in the width that the PTX declares",
    ),
    "integers-too-wide": Cause(
        "the integers were written as 8 bytes", "write each in the width that the PTX declares"
    ),
    "byte-order": Cause(
        "values were written with the high byte first", "write them little-endian, as the GPU is"
    ),
    "sizes-swapped": Cause("two integers are exchanged", "pass them in the PTX's order"),
    "size-wrong": Cause("a size is not that of the arrays", "pass the arrays' own size"),
    "group-size-wrong": Cause(
        "the group size is not the weight's", "pass the rows that one group of scales covers"
    ),
    "strides-in-bytes": Cause(
        "strides are in bytes instead of elements", "divide them by the size of an element"
    ),
    "strides-swapped": Cause(
        "two strides are exchanged", "pass them in the order of the PTX, and of the axes"
    ),
    "stride-wrong": Cause("a stride is not the array's", "pass the array's own stride"),
    "pointers-swapped": Cause("two arrays are exchanged", "pass them in the PTX's order"),
    "pointer-null": Cause("a pointer is NULL", "pass the array's address"),
    "pointer-truncated": Cause(
        "half of an address is lost", "keep addresses in 64 bits on their whole way"
    ),
    "pointer-offset": Cause(
        "a pointer does not point to the array's first element",
        "pass the address of the first element",
    ),
    "array-freed": Cause(
        "a pointer leads to no array of the launch",
        "keep the array alive until the launch is done, and pass its present address",
    ),
    "array-misaligned": Cause(
        "an array is not aligned as the kernel reads it",
        "align it to its elements, or to what the sidecar asks for",
    ),
    "number-bits": Cause(
        "a number was written in the bits of another type",
        "write floats as floats and integers as integers",
    ),
    "number-wrong": Cause(
        "a number is not what the result needs", "pass the number that the expected result has"
    ),
    "padding-missing": Cause(
        "the values were written without the padding that aligns them",
        "align each value to its own size, as ctypes and the PTX do",
    ),
    # Arrays
    "array-too-short": Cause(
        "an array is shorter than the kernel reads or writes",
        "allocate what shape and strides of the launch need",
    ),
    "array-of-another-layer": Cause(
        "an array does not belong to the others",
        "pass the arrays of one layer, and look where the one that is named comes from",
    ),
    "arrays-overlap": Cause(
        "the output shares memory with an input", "give the output an array of its own"
    ),
    "dtype-wrong": Cause(
        "an array has another element type than the kernel reads",
        "convert it, or take the kernel for its type",
    ),
    "wrong-device": Cause(
        "an array lies on another device", "copy it to the device of the launch first"
    ),
    "operand-transposed": Cause(
        "an array is stored transposed", "store it as the kernel reads it, or exchange its strides"
    ),
    "zero-convention": Cause(
        "the zeros are of the other convention (v1 stores zero - 1, v2 the zero)",
        "take the kernel of the weight's zero format",
    ),
    "nibble-order": Cause(
        "the 4-bit values of a word are in another order",
        "repack into GPTQ's order, low nibble first",
    ),
    "groups-shifted": Cause(
        "each group is given the scales or zeros of its neighbour", "line up groups and scales"
    ),
    "act-order-ignored": Cause(
        "the rows are in activation order, and g_idx is not read",
        "take the act_order kernel, which reads g_idx",
    ),
    "input-not-finite": Cause(
        "an input holds NaN or infinities", "look at what computed that input"
    ),
    "input-overwritten": Cause(
        "an input is not what it should be by the time of the launch",
        "look at what wrote it, and at the order of streams",
    ),
    "input-zero": Cause(
        "an input holds nothing but zeros",
        "look whether it was ever filled, or copied to the device",
    ),
    "input-mislabelled": Cause(
        "an array's bytes are of another type than its dtype says",
        "view them as what they are, then convert",
    ),
    # How the result differs, where the launch is as it should be
    "overflow": Cause(
        "the result does not fit into the output's type",
        "scale the inputs down, or take a build whose output is bfloat16 or float32",
    ),
    "result-scaled": Cause(
        "the result is right but for a constant factor",
        "look for a factor (alpha, a scale, a mean for a sum) on one of the two sides only",
    ),
    "result-shifted": Cause(
        "the result is right but for what is added to it, such as a bias",
        "look for a bias or a residual on one of the two sides only",
    ),
    "result-reordered": Cause(
        "the result is right but in another order",
        "look at how the input, or what is expected, was permuted or transposed",
    ),
    "result-shape": Cause(
        "the output is not of the shape that is expected",
        "allocate the output for all that is expected",
    ),
    "result-zero": Cause(
        "the result is zero everywhere",
        "look whether the inputs are filled, and whether the launch writes this output",
    ),
    # The launch configuration
    "warps-wrong": Cause(
        "the block has another number of threads than the kernel was built for",
        "launch num_warps * 32 threads along x",
    ),
    "grid-wrong": Cause(
        "the grid does not cover the output as the kernel divides it",
        "compute the grid by the kernel's tile",
    ),
    "shared-memory-wrong": Cause(
        "the launch gives another amount of dynamic shared memory than the kernel uses",
        "pass the sidecar's shared",
    ),
    # The sidecar
    "stale-sidecar": Cause(
        "the sidecar belongs to another build than the PTX", "rebuild or fetch both together"
    ),
    "sidecar-unreadable": Cause("the sidecar cannot be read", "fetch or write it again"),
    "sidecar-misspelt": Cause(
        "the sidecar has a key or a value that does not exist", "correct its spelling"
    ),
    # The PTX and the kernel
    "ptx-unreadable": Cause("the file is no PTX", "pass the .ptx text that Triton writes"),
    "ptx-truncated": Cause("the PTX is cut short", "fetch or write it again"),
    "ptx-joined": Cause("two PTX modules are in one text", "load each by itself"),
    "ptx-damaged": Cause(
        "the PTX has a line that is no PTX, or that the CPU device does not have",
        "look at that line; if nobody wrote it so, fetch or compile the PTX again",
    ),
    "ptx-altered": Cause(
        "the PTX is not the one that was built", "take the PTX of the sidecar's digest"
    ),
    "entry-missing": Cause("the PTX has no such entry", "name one of its entries"),
    "entry-ambiguous": Cause("the PTX has several entries", "name the one that is meant"),
    "driver-too-old": Cause(
        "the PTX is of a newer ISA than the driver reads",
        "update the driver, or compile for an older ptx_version",
    ),
    "target-mismatch": Cause(
        "the PTX was built for another GPU", "take a build for this GPU or an older one"
    ),
    "missing-barrier": Cause(
        "the kernel lacks a barrier between warps that share memory",
        "look at the instruction that is named, or take the PTX as it was compiled",
    ),
    "missing-wait": Cause(
        "the kernel reads what an asynchronous copy has not finished",
        "look for a cp.async.wait_group that is missing, or take the PTX as it was compiled",
    ),
    "missing-fence": Cause(
        "the kernel lacks a fence between ordinary stores and the asynchronous proxy",
        "look for a missing fence.proxy.async",
    ),
    "missing-mask": Cause(
        "the kernel touches memory beyond its arrays, though sizes and strides look right",
        "look at the mask of the access that is named",
    ),
    "out-of-bounds": Cause(
        "the kernel touches memory beyond an array",
        "hold the array's shape and dtype against the numbers that are named",
    ),
    "kernel-uninitialised": Cause(
        "the kernel reads what nobody wrote", "look at the instruction that is named"
    ),
    "output-unwritten": Cause(
        "the kernel leaves part of its output unwritten",
        "look at the grid, at the sizes, and at how much one CTA of this build covers",
    ),
    # Checkpoints
    "checkpoint-unreadable": Cause(
        "a file of the checkpoint is not what its name says", "fetch it again"
    ),
    "checkpoint-cut-short": Cause("a file of the checkpoint is cut short", "fetch it again"),
    "checkpoint-header-wrong": Cause(
        "the header of a file contradicts the file", "write or fetch the file again"
    ),
    "checkpoint-file-missing": Cause(
        "a file of the checkpoint is not there", "fetch the whole checkpoint"
    ),
    "checkpoint-index-wrong": Cause(
        "the index says what the files do not", "write or fetch the index again"
    ),
    "configuration-missing": Cause(
        "the quantisation configuration, or part of it, is missing",
        "fetch quantize_config.json or config.json from where the checkpoint comes from",
    ),
    "configuration-wrong": Cause(
        "the quantisation configuration is not that of the tensors", "correct the field"
    ),
    "tensor-missing": Cause("a tensor of a layer is missing", "fetch or quantise the layer again"),
    "tensor-type": Cause("a tensor is of another type", "convert it, or quantise the layer again"),
    "tensor-shape": Cause(
        "a tensor has another shape than the others ask for", "look at the tensor and at group_size"
    ),
    "tensor-values": Cause(
        "a tensor holds values that cannot be", "fetch or quantise the layer again"
    ),
    # Where the launch itself is right
    "elsewhere": Cause(
        "on the CPU the launch as it is computes the right result",
        "look at what is around the launch: the order of streams, what reads the result too "
        "early, what writes the arrays meanwhile",
    ),
    "none": Cause("nothing is wrong", "nothing"),
    "unknown": Cause(
        "no known cause explains it", "compare the launch with one that works: ferrum-numba replay"
    ),
}
