"""Matrix products on a GPU through cuBLAS, by ctypes: nothing but NVIDIA's own libraries.

Numbers are those of `library_types.h`, `cublas_api.h` and `cublasLt.h`.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BF16, _F32, _F64, _I8, _I32, _E4M3 = 14, 0, 1, 3, 10, 28
_COMPUTE_32F, _COMPUTE_TF32, _COMPUTE_64F, _COMPUTE_32I = 68, 77, 70, 72
_TRANSPOSED, _PLAIN, _DEFAULT_ALGORITHM = 1, 0, -1
_TO_DEVICE = 1
_LT_TRANSA = 3
_WORKSPACE = 64 << 20
_FOLDERS = ("/usr/local/cuda/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib64")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of product, and how the counter must show it."""

    name: str
    operand: int
    result: int
    compute: int
    operand_bytes: int
    result_bytes: int
    counter: str
    """The catalogue's counter that grows by it."""
    factor: float
    """Counted operations times this are what the counter must show: tensor time is priced at
    the FP16 rate, of which FP8 is twice and TF32 half."""


KINDS = {
    one.name: one
    for one in (
        Kind("bf16", _BF16, _BF16, _COMPUTE_32F, 2, 2, "gflop", 1.0),
        Kind("fp8", _E4M3, _BF16, _COMPUTE_32F, 1, 2, "gflop", 0.5),
        Kind("tf32", _F32, _F32, _COMPUTE_TF32, 4, 4, "gflop", 2.0),
        Kind("fp64", _F64, _F64, _COMPUTE_64F, 8, 8, "gflop_fp64", 1.0),
        Kind("int8", _I8, _I32, _COMPUTE_32I, 1, 4, "giop_int8", 1.0),
    )
}


class CudaUnavailableError(RuntimeError):
    """A library is not there, or a call failed; the message says which."""


def library(name: str) -> ctypes.CDLL:
    """`cudart`, `cublas` or `cublasLt`, of whichever release the machine has."""
    places = [*os.environ.get("LD_LIBRARY_PATH", "").split(":"), *_FOLDERS]
    files = [str(path) for place in places if place for path in Path(place).glob(f"lib{name}.so*")]
    wheels = Path(ctypes.__file__).parents[1] / "site-packages" / "nvidia"
    files += [str(path) for path in wheels.glob(f"*/lib/lib{name}.so*")]
    for file in [f"lib{name}.so", *sorted(files, key=len)]:
        try:
            return ctypes.CDLL(file, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
    raise CudaUnavailableError(f"lib{name}.so was not found; set LD_LIBRARY_PATH")


def _checked(code: int, what: str) -> None:
    if code:
        raise CudaUnavailableError(f"{what} failed with {code}")


class Products:
    """Square products of one kind, launched one after another on a GPU's default stream."""

    def __init__(self, kind: Kind, size: int) -> None:
        self.kind, self.size = kind, size
        self._cuda, self._blas = library("cudart"), library("cublas")
        _checked(self._cuda.cudaSetDevice(0), "cudaSetDevice")
        self._a = self._random(size * size * kind.operand_bytes)
        self._b = self._random(size * size * kind.operand_bytes)
        self._c = self._room(size * size * kind.result_bytes)
        self._scalars = _scalars(kind)
        self._launch = self._prepared_lt() if kind.name == "fp8" else self._prepared()

    @property
    def operations(self) -> float:
        """Of one product: 2MNK."""
        return 2.0 * self.size**3

    def _room(self, count: int) -> ctypes.c_void_p:
        pointer = ctypes.c_void_p()
        _checked(self._cuda.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(count)), "cudaMalloc")
        return pointer

    def _random(self, count: int) -> ctypes.c_void_p:
        """Bytes without bit 6: in every one of the types that is a finite number, and no zero,
        with which a GPU would draw less."""
        block = os.urandom(min(count, 1 << 24)).translate(bytes(x & 0xBF for x in range(256)))
        pointer = self._room(count)
        for start in range(0, count, len(block)):
            part = min(len(block), count - start)
            place = ctypes.c_void_p((pointer.value or 0) + start)
            code = self._cuda.cudaMemcpy(place, block, ctypes.c_size_t(part), _TO_DEVICE)
            _checked(code, "cudaMemcpy")
        return pointer

    def _prepared(self) -> Callable[[], int]:
        handle, n, kind = ctypes.c_void_p(), self.size, self.kind
        _checked(self._blas.cublasCreate_v2(ctypes.byref(handle)), "cublasCreate")
        one, zero = (ctypes.byref(value) for value in self._scalars)
        # INT8 on tensor cores wants its first operand transposed.
        first = _TRANSPOSED if kind.name == "int8" else _PLAIN
        return lambda: self._blas.cublasGemmEx(
            handle, first, _PLAIN, n, n, n, one, self._a, kind.operand, n, self._b, kind.operand,
            n, zero, self._c, kind.result, n, kind.compute, _DEFAULT_ALGORITHM,
        )  # fmt: skip

    def _prepared_lt(self) -> Callable[[], int]:
        """FP8 is only in the lighter library, with the first operand transposed."""
        lt, n, kind = library("cublasLt"), self.size, self.kind
        handle, descriptor = ctypes.c_void_p(), ctypes.c_void_p()
        _checked(lt.cublasLtCreate(ctypes.byref(handle)), "cublasLtCreate")
        code = lt.cublasLtMatmulDescCreate(ctypes.byref(descriptor), kind.compute, _F32)
        _checked(code, "cublasLtMatmulDescCreate")
        way = ctypes.c_int(_TRANSPOSED)
        code = lt.cublasLtMatmulDescSetAttribute(
            descriptor, _LT_TRANSA, ctypes.byref(way), ctypes.c_size_t(4)
        )
        _checked(code, "cublasLtMatmulDescSetAttribute")
        inputs, output = _layout(lt, kind.operand, n), _layout(lt, kind.result, n)
        one, zero = (ctypes.byref(value) for value in self._scalars)
        room = self._room(_WORKSPACE)
        return lambda: lt.cublasLtMatmul(
            handle, descriptor, one, self._a, inputs, self._b, inputs, zero, self._c, output,
            self._c, output, None, room, ctypes.c_size_t(_WORKSPACE), None,
        )  # fmt: skip

    def launch(self, count: int) -> None:
        """So many products, without waiting."""
        for _ in range(count):
            _checked(self._launch(), f"the {self.kind.name} product")

    def wait(self) -> None:
        """Until all have been done."""
        _checked(self._cuda.cudaDeviceSynchronize(), "cudaDeviceSynchronize")


def _scalars(kind: Kind) -> tuple[Any, Any]:
    number = {_COMPUTE_64F: ctypes.c_double, _COMPUTE_32I: ctypes.c_int32}.get(
        kind.compute, ctypes.c_float
    )
    return number(1), number(0)


def _layout(lt: ctypes.CDLL, number: int, n: int) -> ctypes.c_void_p:
    layout = ctypes.c_void_p()
    code = lt.cublasLtMatrixLayoutCreate(
        ctypes.byref(layout), number, ctypes.c_uint64(n), ctypes.c_uint64(n), ctypes.c_int64(n)
    )
    _checked(code, "cublasLtMatrixLayoutCreate")
    return layout
