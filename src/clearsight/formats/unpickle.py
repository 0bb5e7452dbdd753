"""Reads the files of `torch.save` without running anything that they say.

A pickle is a program. This reader takes the few instructions that dictionaries, lists, numbers, texts and
tensors need, and refuses the file for any other before the first one is carried out. Names are looked up in
one table; what stands there is defined in this module and cannot be changed by the file, so that no function
of Python, torch or a stranger can be reached. Tensors stay in the file until `StoredTensor.load` is called;
their shapes are known before.

`torch.load(weights_only=True)` is no substitute: it refuses the `logs` of the papers' checkpoints (a
defaultdict), its allow list is shared by the whole process, and it does not compare the archive's checksums.
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clearsight.errors import DataError

LARGEST_PICKLE = 1 << 28
"""Bytes of the pickle itself, without the tensors beside it; that of a checkpoint has some kilobytes."""

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# What torch.save writes (protocol 2) for containers, numbers, texts and tensors. Left out on purpose: every
# way to name a thing but GLOBAL, every way to build an object but REDUCE, and the strings of Python 2.
_INSTRUCTIONS = {
    *("PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1"),
    *("BINFLOAT", "BINUNICODE", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2"),
    *("TUPLE3", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
    *("GLOBAL", "REDUCE", "BUILD", "BINPERSID"),
}
_BROKEN = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    MemoryError,
    RecursionError,
    struct.error,
)


class _Sealed:
    """What the instruction BUILD, which sets attributes, does not get to change."""

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a value whose attributes it wants to set")


@dataclass(frozen=True, eq=False)
class _Storage(_Sealed):
    """Numbers of one dtype in one member of the archive."""

    file: Path
    member: str
    dtype: torch.dtype
    count: int

    def load(self) -> Tensor:
        try:
            with zipfile.ZipFile(self.file) as archive:
                data = bytearray(archive.read(self.member))  # compares the checksum
        except (zipfile.BadZipFile, OSError, EOFError, KeyError) as error:
            raise _broken(self.file, f"{self.member}: {error}") from error
        if len(data) != self.count * self.dtype.itemsize:
            raise _broken(self.file, f"{self.member} has changed since its shapes were read")
        return torch.frombuffer(data, dtype=self.dtype) if data else torch.empty(0, dtype=self.dtype)


@dataclass(frozen=True, eq=False)
class StoredTensor(_Sealed):
    """A tensor that is still in its file."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    storage: _Storage

    @property
    def dtype(self) -> torch.dtype:
        return self.storage.dtype

    def load(self) -> Tensor:
        """Read it. Raises DataError for a file that is cut short or damaged."""
        return torch.as_strided(self.storage.load(), self.shape, self.stride, self.offset).contiguous()


class _Dictionary(dict[Any, Any]):
    """What an OrderedDict or defaultdict becomes: made empty, filled by the instructions that follow."""

    def __setstate__(self, state: Any) -> None:
        """A module's state dict carries version numbers as an attribute; nobody needs them here."""


class _Maker(_Sealed):
    """Something that the instruction REDUCE may call."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)


_FACTORY = _Sealed()
"""Stands for `list`, `dict` and the like where a defaultdict names them; it cannot be called."""


def _empty_dictionary(*factory: Any) -> _Dictionary:
    if any(made is not _FACTORY for made in factory):
        raise pickle.UnpicklingError("a dictionary that is made from something")
    return _Dictionary()


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> StoredTensor:
    """A view of a storage that lies inside it."""
    sizes = (offset, *shape, *stride) if isinstance(shape, tuple) and isinstance(stride, tuple) else (None,)
    if not isinstance(storage, _Storage) or any(type(size) is not int or size < 0 for size in sizes):
        raise pickle.UnpicklingError("a tensor of no known shape")
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    # A view may repeat numbers (stride 0): then a small file asks for any amount of memory.
    if 0 not in shape and (last >= storage.count or prod(shape) > storage.count):
        raise pickle.UnpicklingError(f"a tensor {shape} that is larger than its storage of {storage.count}")
    return StoredTensor(tuple(shape), tuple(stride), offset, storage)


def _rebuild_parameter(data: Any, *rest: Any) -> StoredTensor:
    if not isinstance(data, StoredTensor):
        raise pickle.UnpicklingError("a parameter without a tensor")
    return data


_NAMES: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _Maker(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): _Maker(_rebuild_parameter),
    ("collections", "OrderedDict"): _Maker(_empty_dictionary),
    ("collections", "defaultdict"): _Maker(_empty_dictionary),
    **{("torch", name): dtype for name, dtype in _DTYPES.items()},
    **{
        (module, name): _FACTORY for module in ("builtins", "__builtin__") for name in ("list", "dict", "int")
    },
}


def read_torch(path: str | os.PathLike[str]) -> Any:
    """What a file of `torch.save` holds: dict, list, tuple, numbers, texts, None, and `StoredTensor`.

    Args:
        path: a file in the zip format (torch 1.6 and later).

    Raises:
        DataError: no such file, another format, cut short or damaged, or anything in it that is not of the
            kinds above. Nothing is executed.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError("There is no such file.", where=str(file), do="Give a file of torch.save.")
    if not zipfile.is_zipfile(file):
        raise DataError(
            "This is not a whole file of torch.save: its table of contents is missing.",
            where=str(file),
            do="It was cut short, or torch before 1.6 wrote it: copy it again, or save it anew.",
        )
    try:
        with zipfile.ZipFile(file) as archive:
            program, prefix = _program(archive, file)
            sizes = {member.filename: member.file_size for member in archive.infolist()}
        _check(program, file)
        return _Reader(program, _storages(file, prefix, sizes)).load()
    except (zipfile.BadZipFile, OSError, NotImplementedError, *_BROKEN) as error:
        raise _broken(file, str(error) or type(error).__name__) from error


class _Reader(pickle.Unpickler):
    def __init__(self, program: bytes, storage: Callable[[Any], _Storage]) -> None:
        super().__init__(io.BytesIO(program))
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        return _NAMES[module, name]

    def persistent_load(self, reference: Any) -> _Storage:
        return self._storage(reference)


def _program(archive: zipfile.ZipFile, file: Path) -> tuple[bytes, str]:
    """The pickle of the archive, and what the names of its tensors begin with."""
    programs = [member for member in archive.infolist() if member.filename.split("/")[1:] == ["data.pkl"]]
    if len(programs) != 1:
        raise DataError(
            "This zip archive was not written by torch.save: it has no data.pkl of its own.",
            where=str(file),
            do="Give a checkpoint: .pt, .pth, .safetensors, or its folder.",
        )
    if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
        raise pickle.UnpicklingError("its members are compressed, which torch.save never does")
    if programs[0].file_size > LARGEST_PICKLE:
        raise pickle.UnpicklingError(f"its pickle has {programs[0].file_size} bytes")
    prefix = programs[0].filename.removesuffix("data.pkl")
    order = f"{prefix}byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise pickle.UnpicklingError("its numbers are not little-endian")
    return archive.read(programs[0]), prefix


def _check(program: bytes, file: Path) -> None:
    """Refuse the pickle, before any of it is carried out, for what dictionaries of tensors do not need."""
    step: int
    argument: Any
    for step, (instruction, argument, _) in enumerate(pickletools.genops(program)):
        named = tuple(argument.split(" ", 1)) if instruction.name == "GLOBAL" else None
        if instruction.name not in _INSTRUCTIONS or (named is not None and named not in _NAMES):
            what = f"the instruction {instruction.name}" if named is None else f"'{'.'.join(named)}'"
            raise DataError(
                f"This pickle asks for {what}, which a checkpoint of weights does not need. Nothing was run.",
                where=str(file),
                do="Do not load it with anything else, unless you trust who made it; ask for safetensors.",
            )
        # The reader reserves memory up to the highest number in its memory table.
        if instruction.name in ("BINPUT", "LONG_BINPUT") and argument > step:
            raise pickle.UnpicklingError(f"entry {argument} of its memory table after {step} instructions")


def _storages(file: Path, prefix: str, sizes: Mapping[str, int]) -> Callable[[Any], _Storage]:
    def storage(reference: Any) -> _Storage:
        kind, dtype, key, _, count = reference
        member = f"{prefix}data/{key}"
        if kind != "storage" or not isinstance(dtype, torch.dtype) or type(count) is not int or count < 0:
            raise pickle.UnpicklingError("a reference that is not a tensor's")
        if sizes.get(member) != count * dtype.itemsize:
            raise pickle.UnpicklingError(
                f"{member} has {sizes.get(member, 0)} bytes, not {count * dtype.itemsize}"
            )
        return _Storage(file, member, dtype, count)

    return storage


def _broken(file: Path, why: str) -> DataError:
    return DataError(
        f"This checkpoint cannot be read: {why}.",
        where=str(file),
        do="It was cut short or is no checkpoint of weights: copy it again from where it came from.",
    )
