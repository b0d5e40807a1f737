"""Networks saved by `torch.export` (.pt2), read as data: a graph of torch's operators, and tensors.

`torch.export.load` is no place for a file from elsewhere: it unpickles, evaluates sizes as Python and looks up whatever
name stands for an operator. Here the graph's JSON is walked by ourselves: an operator is one of ATen's or it is
refused, an argument is a number, a word or a tensor, and the sizes that the file allows are checked, not evaluated.
The schema is that of torch/_export/serde/schema.py, version 8.
"""

from __future__ import annotations

import json
import math
import operator
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError
from .graph import DEVICE, ExportedNetwork, Name, Size, Step, names
from .weights import refuse_bomb

_SCHEMA = 8
_DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
_MEMORY_FORMATS = {
    1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format,
}  # fmt: skip
_OPERATOR = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")
# What begins with an underscore is torch's inside, where some trust what they are given; these are safe and usual.
_INSIDE = re.compile(
    r"[a-z]\w*|_to_copy|_unsafe_view|_(log_)?softmax|_native_batch_norm_legit_no_training|_adaptive_avg_pool[23]d"
    r"|_prelu_kernel|_assert\w*|_upsample\w+|_scaled_dot_product\w+"
)
_REACHING = {"from_file", "save", "set_", "set_data"}  # files, and storage behind a tensor's back
_ON_NUMBERS: dict[str, Callable[..., Any]] = {
    "math.trunc": math.trunc, "torch.sym_max": max, "torch.sym_min": min, "torch.sym_float": float,
    "torch.sym_int": int, "torch.sym_not": operator.not_,
}  # fmt: skip
_OF_ONE = {"math.trunc", "torch.sym_float", "torch.sym_int", "torch.sym_not", "_operator.neg"}
for _name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge"):
    _ON_NUMBERS[f"_operator.{_name}"] = getattr(operator, _name)
_SYMBOL = r"Symbol\('(\w+)'(?:, \w+=\w+)*\)"
_SIZE = re.compile(rf"{_SYMBOL}|Mul\(Integer\((\d{{1,9}})\), {_SYMBOL}\)")


def read_exported(path: Path) -> ExportedNetwork:
    """Read a .pt2 archive as a network on the CPU.

    Raises
    ------
    ModelError
        If it is damaged, of another version, or no network of one volume; if it holds what only running its code would
        load: pickles, compiled code, operators of other libraries (which nothing could look into either).
    """
    try:
        refuse_bomb(path)
        return _read(torch._C.PyTorchFileReader(str(path)))
    except _Refused as refused:
        raise ModelError(f"{path} is an exported program {refused}.") from None
    except Exception as error:  # a damaged archive or graph fails in any way
        reason = (str(error).strip() or type(error).__name__).partition("\n")[0][:200]
        raise ModelError(f"{path} is a damaged exported program ({reason}); copy or export it again.") from error


class _Refused(Exception):  # noqa: N818
    """What an exported program must not be, in words that follow on "is an exported program"."""


def _brings(what: str) -> _Refused:
    return _Refused(
        f"that brings {what}, which is more than data and never run; export plain layers, or save the state dict"
    )


def _read(archive: Any) -> ExportedNetwork:
    """Put a network together from the records of an archive."""
    records = set(archive.get_all_records())
    if any(name.startswith("data/aotinductor/") for name in records):
        raise _brings("compiled code")
    if {name for name in records if name.startswith("models/")} != {"models/model.json"}:
        raise _Refused("with several models or none; save one with torch.export.save")
    program = json.loads(archive.get_record("models/model.json"))
    version = program["schema_version"]["major"]
    if version != _SCHEMA or "data/weights/model_weights_config.json" not in records:
        raise _Refused(f"of format {version!r}, and {_SCHEMA} is read; export it again with torch 2.9 or later")
    if archive.get_record("byteorder").decode() != sys.byteorder:
        raise _Refused("of another byte order than this machine's; export it again here")
    module = program["graph_module"]
    graph, signature = module["graph"], module["signature"]
    stored = _tensors(archive, "data/weights/", "model_weights_config.json")
    stored |= _tensors(archive, "data/constants/", "model_constants_config.json")
    given, tensors = _inputs(signature["input_specs"], stored)
    sizes = [_size(size, program["range_constraints"]) for size in graph["tensor_values"][given]["sizes"]]
    if len(sizes) != 5:
        raise _Refused(f"whose input has {len(sizes)} axes; export a network of a volume (b, c, i, j, k)")
    if not sizes[0].symbol and sizes[0].factor != 1:
        raise _Refused(f"for batches of {sizes[0].factor}; export it with a batch of one, or of any size")
    leaves = []
    for spec in signature["output_specs"]:
        ((kind, entry),) = spec.items()
        if kind != "user_output":
            raise _Refused(f"that changes itself while it runs ({kind}); call eval() before the export")
        leaves.append(_argument(entry["arg"]))
    form = json.loads(module["module_call_graph"][0]["signature"]["out_spec"])[1]
    outputs = _unflattened(form, iter(leaves))
    steps = [_step(node) for node in graph["nodes"]]
    known = {given, *tensors}
    for step in steps:
        _refuse_unknown(step.reads, known)
        known.update(step.writes)
    _refuse_unknown(names(outputs), known)
    return ExportedNetwork(steps, tensors, given, sizes, outputs)


def _refuse_unknown(read: Iterable[str], known: set[str]) -> None:
    lost = next((name for name in read if name not in known), None)
    if lost is not None:
        raise ValueError(f"{lost[:80]!r} is read before anything has worked it out")


def _inputs(specs: list[Any], stored: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Name of the volume in the graph, and the tensors under theirs."""
    given: list[str] = []
    tensors: dict[str, Tensor] = {}
    for spec in specs:
        ((kind, entry),) = spec.items()
        if kind in ("parameter", "buffer", "tensor_constant"):
            tensors[entry["arg"]["name"]] = stored[entry[f"{kind}_name"]]
        elif kind == "user_input" and "as_tensor" in entry["arg"]:
            given.append(entry["arg"]["as_tensor"]["name"])
        else:
            raise _Refused("that takes something else than tensors; export it with one volume as its only input")
    if len(given) != 1:
        raise _Refused(f"of {len(given)} inputs; export it with one volume as its only input")
    return given[0], tensors


def _step(node: Mapping[str, Any]) -> Step:
    target = str(node["target"])
    args: list[Any] = [_argument(entry["arg"]) for entry in node["inputs"]]
    kwargs: dict[str, Any] = {}
    outputs = [_argument(output) for output in node["outputs"]]
    found = _OPERATOR.fullmatch(target)
    run = _ON_NUMBERS.get(target)
    if found and _INSIDE.fullmatch(found[1]) and found[1] not in _REACHING:
        run = getattr(getattr(torch.ops.aten, found[1], None), found[2], None)
        if run is None:
            raise _Refused(
                f"with the operator {target[:80]!r}, which this version of torch lacks; export it again here"
            )
        by_name = {entry["name"]: arg for entry, arg in zip(node["inputs"], args, strict=True)}
        taken = {argument.name: argument.has_default_value() for argument in run._schema.arguments}
        if not by_name.keys() <= taken.keys() or not all(taken[name] or name in by_name for name in taken):
            raise ValueError(f"{target[:80]!r} with the arguments {', '.join(by_name)[:80] or 'none'}")
        if by_name.get("train") is True or by_name.get("training") is True:
            raise _Refused(f"in training mode ({found[1]}); call eval() on the network before the export")
        args = []
        for argument in run._schema.arguments:
            if argument.name not in by_name or argument.kwarg_only:
                break
            args.append(by_name.pop(argument.name))
        kwargs = by_name
    if run is None:
        raise _brings(f"the operator {target[:80]!r}")
    if target in _ON_NUMBERS and len(args) != (1 if target in _OF_ONE else 2):
        raise ValueError(f"{target!r} of {len(args)} values")
    name = node.get("name") or next(iter(names(outputs)), found[1] if found else "number")
    return Step(str(name).replace(".", "_"), run, args, kwargs, outputs)


def _argument(argument: Mapping[str, Any]) -> Any:  # noqa: PLR0911, PLR0912 - one case a kind of argument
    """Value of an argument, with names for what the graph works out."""
    ((kind, value),) = argument.items()
    match kind.removeprefix("as_"):
        case "none":
            return None
        case "tensor":
            return Name(value["name"])
        case "tensors":
            return [Name(one["name"]) for one in value]
        case "optional_tensor":
            return _argument(value)
        case "optional_tensors":
            return [_argument(one) for one in value]
        case "name":
            return Name(value)
        case "sym_int" | "sym_float" | "sym_bool":
            return _argument(value)
        case "sym_ints" | "sym_floats" | "sym_bools":
            return [_argument(one) for one in value]
        case "scalar_type":
            return _DTYPES[value]
        case "memory_format":
            return _MEMORY_FORMATS[value]
        case "layout" if value == 7:
            return torch.strided
        case "device":
            return DEVICE
        case "int" | "float" | "bool" | "string" | "ints" | "floats" | "bools":
            return value
    raise _brings(f"an argument of the kind {kind[:40]!r}")


def _unflattened(form: Mapping[str, Any], leaves: Iterator[Any]) -> Any:
    """Outputs in the lists, tuples and dicts that they were put out in (the JSON of torch.utils._pytree)."""
    kind = form["type"]
    if kind is None:
        return next(leaves)
    parts = [_unflattened(part, leaves) for part in form["children_spec"]]
    if kind in ("builtins.dict", "collections.OrderedDict"):
        return dict(zip(json.loads(form["context"]), parts, strict=True))
    if kind in ("builtins.list", "builtins.tuple"):
        return tuple(parts) if kind == "builtins.tuple" else parts
    raise _Refused(f"that puts out a {str(kind)[:80]}; export it with a tensor, tuple, list or dict as its output")


def _size(size: Mapping[str, Any], ranges: Mapping[str, Any]) -> Size:
    if "as_int" in size:
        return Size(int(size["as_int"]))
    found = _SIZE.fullmatch(size["as_expr"]["expr_str"])
    if found is None:
        raise _Refused("whose sizes are formulas; export it with sizes that are fixed, free or multiples of a number")
    symbol = found[1] or found[3]
    bounds = ranges.get(symbol) or {}
    most = bounds.get("max_val")
    return Size(int(found[2] or 1), symbol, int(bounds.get("min_val") or 0), None if most is None else int(most))


def _tensors(archive: Any, folder: str, config: str) -> dict[str, Tensor]:
    """Tensors of one folder of the archive by name, each no larger than what is stored of it."""
    found: dict[str, Tensor] = {}
    flat: dict[str, Tensor] = {}
    for name, entry in json.loads(archive.get_record(folder + config))["config"].items():
        record, meta = entry["path_name"], entry["tensor_meta"]
        if entry["use_pickle"] or not record.startswith(("weight_", "tensor_")):
            raise _brings(f"a pickled object ({name[:80]!r})")
        sizes = [int(size["as_int"]) for size in meta["sizes"]]
        if record not in flat:
            content = bytearray(archive.get_record(folder + record))
            dtype = _DTYPES[meta["dtype"]]
            flat[record] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        if math.prod(sizes) > flat[record].numel():
            raise ValueError(f"{name[:80]!r} is larger than what is stored of it")
        strides = [int(stride["as_int"]) for stride in meta["strides"]]
        found[name] = flat[record].as_strided(sizes, strides, int(meta["storage_offset"]["as_int"]))
    return found
