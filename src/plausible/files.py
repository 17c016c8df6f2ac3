"""Model files: one zip of ``model.json`` and ``tensors.safetensors``.

No pickle, no code, no import by path. A family is looked up by name in the registry, its arguments are JSON, its
numbers are raw tensors: opening a stranger's file can do nothing but fail with a message. What a file claims is
compared with what it holds before any memory is taken.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import platform
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from plausible import __version__, registry
from plausible.atomic import write_atomically
from plausible.context import transforms_of
from plausible.data.seen import Seen
from plausible.errors import ModelFileError, PlausibleError
from plausible.space import Space, from_json
from plausible.transforms import Chain

FORMAT = 3
JSON, TENSORS = "model.json", "tensors.safetensors"
LARGEST_JSON = 256 << 20  # bytes
LARGEST_INTEGER = 10**6  # of a number among the arguments: no layer we make is as wide


def save(model: Any, path: str | os.PathLike) -> None:
    """Write a fitted model; an existing file is replaced only once the new one is whole.

    The suffix of another program's format (.bif) has that written, of a model that fits in it.

    Raises:
        PlausibleError: an argument cannot be written as JSON, or the model in that format; the message says why.
    """
    from safetensors.torch import save as pack
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(model, "module_")
    other = registry.format_of(Path(path).suffix)
    if other is not None:
        other.write(model, path)
        return
    parts = {"module": model.module_, "transforms": model.transforms_}
    if model.context_space_ is not None:
        parts["context"] = model.context_transforms_
    tensors = {f"{name}.{k}": v for name, part in parts.items() for k, v in part.state_dict().items()}
    blob = pack({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()})
    described = json.dumps(_describe(model), ensure_ascii=False)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        # A fixed date, so that the same model gives the same bytes.
        archive.writestr(zipfile.ZipInfo(JSON), described)
        archive.writestr(zipfile.ZipInfo(TENSORS), blob)
    write_atomically(Path(path), out.getvalue())


def load(path: str | os.PathLike) -> Any:
    """Read a model that `save` wrote, or that another program did in a format with a suffix of its own (.bif).

    Raises:
        ModelFileError: the file is absent, truncated, of a newer format, or not one of ours; or an older version wrote
            it, which kept such a model otherwise.
        ReadError: another program's file cannot be read; the message has the line.
    """
    other = registry.format_of(Path(path).suffix)
    if other is not None:
        return other.read(path)
    described, tensors = _open(Path(path))
    try:
        return _rebuild(described, tensors)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError, PlausibleError) as err:
        wrote = _other_version(described)
        if wrote is not None:
            raise ModelFileError(
                f"{path} was written by {wrote}, and this one ({__version__}) keeps such a model otherwise ({err}); "
                "fit the model again, or open the file with the version that wrote it"
            ) from None
        if isinstance(err, ModelFileError):
            raise
        raise ModelFileError(f"{path} is damaged or was not written by plausible: {err}") from None


def _other_version(described: dict[str, Any]) -> str | None:
    """The version that wrote a file, in words; None if it is this one."""
    versions = described.get("versions")
    wrote = str(versions.get("plausible", ""))[:20] if isinstance(versions, dict) else ""
    if wrote and wrote != __version__:
        return f"plausible {wrote}"
    return f"an older version of plausible (format {described['format']})" if described["format"] < FORMAT else None


def _describe(model: Any) -> dict[str, Any]:
    arguments = {f.name: getattr(model, f.name) for f in dataclasses.fields(model)}
    name = registry.name_of(type(model))
    if name is None:
        raise PlausibleError(
            f"{type(model).__name__} is not in the registry, so a file of it could not be opened; "
            "add it to families/__init__.py to save it"
        )
    for key, value in arguments.items():
        try:
            json.dumps(_to_json(value))
        except TypeError:
            raise PlausibleError(
                f"the argument {key}={value!r} cannot be saved: expected numbers, strings, lists or None"
            ) from None
    return {
        "format": FORMAT,
        "family": name,
        "arguments": {k: _to_json(v) for k, v in arguments.items()},
        "space": model.space_.to_json(),
        "context_space": None if model.context_space_ is None else model.context_space_.to_json(),
        "versions": {
            "plausible": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
        },
        "fitted": {
            "n_features_in_": model.n_features_in_,
            "feature_names_in_": getattr(model, "feature_names_in_", pd.Index([])).tolist() or None,
            "history": model.history_.to_dict("list"),
            "kept_epoch_": model.kept_epoch_,
            "stopped_": model.stopped_,
            "fit_seconds_": model.fit_seconds_,
            "fingerprint_": model.fingerprint_,
            "seen": model.seen_.to_json() if hasattr(model, "seen_") else None,
        },
    }


def _open(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load as unpack

    try:
        with zipfile.ZipFile(path) as archive:
            entries = {e.filename: e for e in archive.infolist()}
            if set(entries) != {JSON, TENSORS} or len(archive.infolist()) != 2:
                raise ModelFileError(
                    f"{path} is not a plausible model: expected {JSON} and {TENSORS} in it, found "
                    f"{', '.join(sorted(entries)[:5]) or 'nothing'}"
                )
            # Ours are stored uncompressed: nothing in a file is larger than the file.
            if any(
                e.compress_type != zipfile.ZIP_STORED or e.file_size > path.stat().st_size for e in entries.values()
            ):
                raise ModelFileError(f"{path} is not a plausible model: its entries are not stored plainly")
            if entries[JSON].file_size > LARGEST_JSON:
                raise ModelFileError(f"{path} is not a plausible model: {JSON} is larger than any we write")
            described = json.loads(archive.read(JSON))
            blob = archive.read(TENSORS)
    except FileNotFoundError:
        raise ModelFileError(f"there is no file {path}") from None
    except IsADirectoryError:
        raise ModelFileError(f"{path} is a folder; expected a model file") from None
    except ModelFileError:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as err:
        raise ModelFileError(f"{path} is truncated or not a plausible model ({err}); save or copy it again") from None
    if not isinstance(described, dict) or not isinstance(described.get("format"), int):
        raise ModelFileError(f"{path} is not a plausible model: {JSON} has no format number")
    if described["format"] > FORMAT:
        raise ModelFileError(
            f"{path} has format {described['format']}, this plausible reads up to {FORMAT}; upgrade plausible"
        )
    try:
        return described, unpack(blob)
    except (SafetensorError, KeyError, ValueError) as err:
        raise ModelFileError(f"the tensors of {path} are damaged ({err}); save or copy it again") from None


def _rebuild(described: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Any:
    cls = registry.get(described["family"])
    known = {f.name for f in dataclasses.fields(cls)}
    unknown = set(described["arguments"]) - known
    if unknown:
        raise ModelFileError(f"the file gives {cls.__name__} an argument it does not have: {sorted(unknown)[0]!r}")
    if described["format"] < 3 and described["arguments"].get("orderings", 1) > 1:
        raise ModelFileError("the second ordering of the columns was another one then")
    if "dilations" in known:  # files from before there were any
        described["arguments"].setdefault("dilations", [1])
    model = cls(**{k: _from_json(v) for k, v in described["arguments"].items()})
    _refuse_giants(described["arguments"])
    fitted = dict(described["fitted"])
    model.history_ = pd.DataFrame(fitted.pop("history"))
    names, seen = fitted.pop("feature_names_in_"), fitted.pop("seen", None)
    if seen is not None:
        model.seen_ = Seen.from_json(seen)
    if names:
        import numpy as np

        model.feature_names_in_ = np.asarray(names, dtype=object)
    for key, value in fitted.items():
        if key not in ("n_features_in_", "kept_epoch_", "stopped_", "fit_seconds_", "fingerprint_"):
            raise ModelFileError(f"the file sets {key!r}, which no model has")
        setattr(model, key, value)
    model.space_ = from_json(described["space"])
    parts: dict[str, dict[str, torch.Tensor]] = {"module": {}, "transforms": {}, "context": {}}
    for key, tensor in tensors.items():
        part, _, rest = key.partition(".")
        parts[part][rest] = tensor
    model.context_space_, model.context_columns_ = None, ()
    if described["context_space"] is not None:
        model.context_space_ = from_json(described["context_space"])
        model.context_transforms_ = transforms_of(model.context_space_)
        model._set_context(model.context_transforms_.restore(parts["context"], model.context_space_))
    model.transforms_ = Chain(model._transforms(model.space_))
    model_space = model.transforms_.restore(parts["transforms"], model.space_)
    model.transforms_.to(model._device())
    model.module_ = _restore_module(model, model_space, parts["module"]).to(model._device()).eval()
    model.n_parameters_ = model.module_.n_learned
    return model


def _restore_module(model: Any, space: Space, state: dict[str, torch.Tensor]):
    """Build the module first on no memory at all, to see that its shapes are those of the file, then for good."""
    with torch.device("meta"):
        sketch = model._build_whole(space)
    free = {
        f"{path}.{name}".removeprefix(".")
        for path, part in sketch.named_modules()
        for name in getattr(part, "variable_buffers", ())
    }
    for key, value in sketch.state_dict().items():
        if key not in state:
            raise ModelFileError(f"the file lacks the tensor {key!r}")
        if key not in free and tuple(state[key].shape) != tuple(value.shape):
            raise ModelFileError(
                f"the tensor {key!r} has shape {tuple(state[key].shape)}, the arguments in the file ask for "
                f"{tuple(value.shape)}"
            )
    module = model._seeded_build(space, 0)
    for key in free:
        path, _, name = key.rpartition(".")
        setattr(module.get_submodule(path), name, torch.empty_like(state[key]))
    module.load_state_dict(state)
    return module


def _refuse_giants(arguments: dict[str, Any]) -> None:
    """Refuse arguments that would ask for more work than any model we write."""
    for key, value in arguments.items():
        for v in value if isinstance(value, list) else [value]:
            if isinstance(v, int) and abs(v) > LARGEST_INTEGER and key != "random_state":
                raise ModelFileError(f"the file asks for {key}={v}, larger than any we make")


def _to_json(value: Any) -> Any:
    if isinstance(value, Space):
        return {"space": value.to_json()}
    if isinstance(value, tuple):
        return [_to_json(v) for v in value]
    return value.item() if hasattr(value, "item") else value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"space"} and isinstance(value["space"], dict):
        return from_json(value["space"])
    return tuple(_from_json(v) for v in value) if isinstance(value, list) else value
