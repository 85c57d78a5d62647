"""Files of weights, which anybody may have made: read as plain tensors, and compared with what is built for them.

No configuration is believed before its network has been compared with the file: a network is built while what it asks
for is counted (`bounded_by`), so that a file of a megabyte cannot ask for gigabytes or for a million layers.
"""

from __future__ import annotations

import contextlib
import mmap
import re
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from viper.errors import UserError
from viper.files import files_only, read_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SAFETENSORS, PICKLED = "model.safetensors", "pytorch_model.bin"
# Numbers a network may hold beyond those of its file: a pooler that nobody reads, tables of positions, masks, a
# convolution before its weights are normed. The largest wav2vec 2.0, of two billion numbers, has 31 million.
EXTRA_NUMBERS, EXTRA_SHARE = 1 << 24, 8
# A file may hold in one tensor what a network takes apart: queries, keys, values.
TENSORS_A_TENSOR, EXTRA_TENSORS = 4, 200
SAME_MEMORY = 4
MAX_HEADER_BYTES = 1 << 22  # of a .safetensors; networks of a thousand layers have some 200 KB


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint file: a state dict, or one under `model_state_dict` or `state_dict`.

    .safetensors, or .pt read with weights_only=True: a pickle that wants to run code is refused with a UserError, and
    so is what claims to hold more than the file has bytes.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        state = _tensors(path)
    except UserError:
        raise
    except Exception as error:  # damaged files make the readers raise anything
        raise UserError(f"{path}: cannot be read as plain tensors ({reason(error)}); nothing of it was run") from error
    return {key.removeprefix("module."): value for key, value in state.items()}


def load_folder(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a folder in transformers' layout: one file or several with an index, safetensors first.

    An index names files of its own folder only; anything else is a UserError.
    """
    for name in (SAFETENSORS, PICKLED):
        if (folder / name).is_file():
            return load_state_dict(folder / name)
        if (index := folder / f"{name}.index.json").is_file():
            state: dict[str, Tensor] = {}
            for part in _parts(index, name):
                for key, value in load_state_dict(folder / part).items():
                    if key in state:
                        raise UserError(f"{index}: two files hold {key!r}")
                    state[key] = value
            return state
    raise UserError(f"{folder}: has no weights in it ({SAFETENSORS} or {PICKLED})")


def reason(error: Exception) -> str:
    """Return a library's message on one line, cut where it begins to list what else there is."""
    if isinstance(error, UnpicklingError) or "weights_only" in str(error):  # torch's advice is to let it run
        return "damaged, or more than plain tensors"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]} ..."


@contextlib.contextmanager
def bounded_by(state: Mapping[str, Tensor], exactly: bool = False) -> Iterator[None]:
    """Stop the building of a network, in this thread, once it asks for much more than a file's tensors: a ValueError.

    Parameters
    ----------
    state : the tensors the network is built for.
    exactly : whether the file and the network hold the same tensors, as files of viper's own networks do.
    """
    from torch.nn.modules import module as torch_module

    n_numbers = sum(tensor.numel() for tensor in state.values())
    most_tensors = len(state) if exactly else TENSORS_A_TENSOR * len(state) + EXTRA_TENSORS
    most_numbers = n_numbers + n_numbers // EXTRA_SHARE + EXTRA_NUMBERS
    here, numbers = threading.get_ident(), 0
    # A tensor takes its place twice: planned, and with its weights.
    seen: dict[tuple[int, str], int] = {}

    def count(module: Any, name: str, tensor: Any) -> None:
        nonlocal numbers
        if tensor is None or threading.get_ident() != here:
            return
        place = (id(module), name)
        numbers += tensor.numel() - seen.get(place, 0)
        seen[place] = tensor.numel()
        if numbers > most_numbers or len(seen) > most_tensors:
            raise ValueError(f"its sizes ask for more than the {n_numbers:,} numbers in {len(state)} tensors it holds")

    hooks: Sequence[Any] = (
        torch_module.register_module_parameter_registration_hook(count),
        torch_module.register_module_buffer_registration_hook(count),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_finite(network: torch.nn.Module, name: object) -> None:
    """Raise UserError naming a weight or statistic of the network that holds NaN or infinity."""
    import torch

    for key, tensor in (*network.named_parameters(), *network.named_buffers()):
        is_weight = isinstance(tensor, torch.nn.Parameter) or key.endswith(_STATISTICS)
        # A sum is quick, and finite unless something in it is not (or it is very large: then look again).
        if is_weight and tensor.is_floating_point() and not tensor.sum().isfinite() and not tensor.isfinite().all():
            raise UserError(f"{name}: the weight {key} holds values that are not finite")


def not_numbers(state: Mapping[str, Tensor], network: torch.nn.Module) -> list[str]:
    """Return the names of weights the network has as floating point numbers and the file as something else."""
    wanted = {key for key, tensor in network.state_dict().items() if tensor.is_floating_point()}
    prefix = f"{getattr(network, 'base_model_prefix', '')}."
    return [
        key for key, tensor in state.items()
        if not tensor.is_floating_point() and {key, key.removeprefix(prefix), prefix + key} & wanted
    ]  # fmt: skip


_STATISTICS = ("mean", "std", "var")  # of buffers; others may be masks, whose infinities are meant


def _tensors(path: Path) -> dict[str, Tensor]:
    import torch

    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        with open(path, "rb", opener=files_only) as file:
            n_bytes = int.from_bytes(file.read(8), "little")
        if n_bytes > MAX_HEADER_BYTES:  # a million empty tensors: minutes and gigabytes
            raise ValueError(f"a header of {n_bytes:,} bytes, which no network has")
        state: Any = load_file(path)
    else:
        refuse_bombs(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("model_state_dict", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise UserError(f"{path}: is not a state dict and has none under 'model_state_dict'")
    claimed = 0
    for key, value in state.items():
        if not isinstance(key, str):
            raise UserError(f"{path}: is not a state dict, {key!r} is no name")
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized or value.is_complex():
            raise ValueError(f"{key} is not a plain tensor")
        claimed += value.numel() * value.element_size()
        # Rows that are all the same memory; two or three names may well mean one weight.
        if claimed > SAME_MEMORY * path.stat().st_size:
            raise ValueError(f"{key} claims more numbers than the file holds")
    return state


def refuse_bombs(path: Path) -> None:
    """Refuse a file of torch.save that would take much more memory than it has bytes: a ValueError says how."""
    with open(path, "rb", opener=files_only) as file:
        is_zip = file.read(4) == b"PK\x03\x04"  # as torch tells its formats apart
        # Even with weights_only=True a pickle may call bytearray(10**12). A name stands in it as it is.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(b"bytearray") >= 0:
                raise ValueError("would make something else than tensors")
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            # torch compresses nothing; a few kilobytes of zeros could be told to become gigabytes.
            entries = archive.infolist()
            is_squeezed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
            if is_squeezed or sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise ValueError("would unpack to more than it is")


def _parts(index: Path, name: str) -> list[str]:
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    parts = set(weight_map.values()) if isinstance(weight_map, dict) and _are_texts(weight_map.values()) else set()
    suffix = Path(name).suffix
    if not parts or not all(re.fullmatch(r"[\w.-]+", part) and Path(part).suffix == suffix for part in parts):
        raise UserError(f"{index}: must name files of its own folder, such as model-00001-of-00002{suffix}")
    return sorted(parts)


def _are_texts(values: Any) -> bool:
    return all(isinstance(value, str) for value in values)
