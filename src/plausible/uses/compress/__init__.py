r"""Lossless compression with a fitted model: frequent things get short codes, and the model says what is frequent.

    size = -log2 p(x) bits, and some bytes for the head of the file

up to what integers of 24 bits cost, a few parts in 10,000. Bits-back codes with a latent model cost its bound.

    from plausible.uses.compress import compress, decompress
    data = compress(model, X)
    decompress(model, data)                     # X again: values, dtypes, order of columns

The same model is needed to decompress: its fingerprint is in the data, and so is a checksum of what comes back. What is
decoded depends on no number of threads and not on the last bits of any float (`_coding`). `_routes` has the ways from
models to symbols, `_content` what is done with what a model has no place for.

    head    "PLSC", fingerprint of the model (8 bytes), digest of the examples (8)
    parts   meta (JSON), mask of missing cells, notes of rounding, payload; each but the last with its length
    tail    digest of all before (4)
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import lzma
import zlib
from typing import Any

import torch
from sklearn.utils.validation import check_is_fitted

import plausible
from plausible import registry
from plausible.errors import ReadError
from plausible.uses.compress._cells import Cells
from plausible.uses.compress._coding import read_varint, varint
from plausible.uses.compress._content import check, pack, prepared, unpack
from plausible.uses.compress._digest import digest
from plausible.uses.compress._routes import MOST_LANES, Walk, route_of

MAGIC = b"PLSC"
PRINT, TAIL = 8, 4  # bytes of a fingerprint, and of the digest at the end
PLAIN, SHORTER, SHORTEST = range(3)  # how the meta part is written: as it is, by zlib, by lzma


def compress(
    model: Any,
    X: Any,
    *,
    precision: float | dict[str, float] | None = None,
    context: Any = None,
    note: Any = None,
) -> bytes:
    """Write examples in about -log2 p(X) bits.

    Args:
        model: a fitted model that has conditionals, or integrates missing cells out, exactly; or with a latent code.
        X: examples like those that it was fitted on, in any form that `log_prob` takes. Missing cells, unseen levels,
            characters and values outside of a column's range are written beside the code.
        precision: the step that reals are rounded to: of all of them, or by column. None rounds nothing: the reals of a
            column are multiples of some step, such as 0.01, or are refused.
        context: as in `fit`; to be given to `decompress` as well.
        note: whatever else is to be kept, as JSON can hold it; `note_of` returns it.

    Raises:
        CapabilityError: the family has no way to compress; the message says which have.
        SpaceError: X does not look like what the model was fitted on.
        DataError: X would not come back to the bit; said before any work.
    """
    check_is_fitted(model, "module_")
    route_of(model)  # which says if there is none
    packed = pack(model.space_, X, precision)
    again = unpack(model.space_, packed)
    check(X, again, model.space_, precision)
    model_print, contents = fingerprint(model), digest(again)
    meta, payload, notes = dict(packed.meta), b"", b""
    if packed.coded.any():
        walk = _walk(model, packed, context)
        if walk.lanes != MOST_LANES:
            meta["lanes"] = walk.lanes
        payload, notes = walk.write(packed.index, packed.coded)
    if note is not None:
        meta["note"] = note
    said = [meta.pop("n"), _versions(), *([meta] if meta else [])]
    parts = [_smallest(json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode()), packed.mask, notes]
    out = MAGIC + model_print + contents + b"".join(varint(len(part)) + part for part in parts) + payload
    return out + hashlib.sha256(out).digest()[:TAIL]


def decompress(model: Any, data: bytes, *, context: Any = None) -> Any:
    """Return the examples that `compress` wrote.

    Args:
        model: the model they were written with.
        data: what `compress` returned.
        context: what it was given.

    Raises:
        ReadError: data are not such, or were cut or altered, or written with another model or context; or this machine
            computes the model's probabilities too differently. Nothing that was not written is ever returned.
    """
    check_is_fitted(model, "module_")
    model_print, contents, (meta, mask, notes), payload = _taken_apart(bytes(data))
    if model_print != fingerprint(model):
        raise ReadError(
            f"the data were compressed with another model (its fingerprint is {model_print.hex()}, that of this "
            f"{type(model).__name__} {fingerprint(model).hex()}); decompress them with that one"
        )
    versions, meta = _said(meta)
    packed = prepared(model.space_, meta, mask)
    if packed.coded.any():
        walk = _walk(model, packed, context, packed.meta.get("lanes", MOST_LANES))
        packed.index = walk.read(packed.coded, payload, notes)
    X = unpack(model.space_, packed)
    if digest(X) != contents:
        here = _versions()
        hint = (
            "another context" if versions == here else f"versions of plausible and torch: {versions} then, {here} now"
        )
        raise ReadError(
            "what came out is not what went in, by its checksum, so it is not returned: the model computed other "
            f"probabilities than when the data were compressed ({hint}); use what was used then"
        )
    return X


def note_of(data: bytes) -> Any:
    """Return the note that `compress` was given, or None.

    Raises:
        ReadError: data are not what `compress` wrote, or were cut or altered.
    """
    return _said(_taken_apart(bytes(data))[2][0])[1].get("note")


def fingerprint(model: Any) -> bytes:
    """What tells fitted models apart: 8 bytes, of family, arguments, space and every learned number."""
    own = {f.name: getattr(model, f.name) for f in dataclasses.fields(model) if f.name not in ("space", "device")}
    described = {
        "family": registry.name_of(type(model)) or type(model).__qualname__,
        "arguments": own,
        "space": model.space_.to_json(),
        "context": None if model.context_space_ is None else model.context_space_.to_json(),
    }
    h = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
    parts = [model.module_, model.transforms_]
    parts += [model.context_transforms_] if model.context_space_ is not None else []
    for part in parts:
        for name, tensor in sorted(part.state_dict().items()):
            h.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            h.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return h.digest()[:PRINT]


def _walk(model: Any, packed: Any, context: Any, lanes: int | None = None) -> Walk:
    """The walk over examples, on the CPU in double precision: its rounded answers are to be the same elsewhere."""
    c = model._encode_context(context, None if context is None else len(packed.coded))
    here = copy.copy(model)
    here.module_, here.transforms_ = (copy.deepcopy(part).double().cpu() for part in (model.module_, model.transforms_))
    here.module_.eval()
    if hasattr(here, "device"):
        here.device = "cpu"
    return Walk(here, Cells(here, packed.lattices), None if c is None else c.cpu(), lanes)


def _versions() -> str:
    return f"{plausible.__version__} {torch.__version__.partition('+')[0]}"


def _smallest(text: bytes) -> bytes:
    """The meta part in the shortest of three ways."""
    ways = {PLAIN: text, SHORTER: zlib.compress(text, 9), SHORTEST: lzma.compress(text, lzma.FORMAT_ALONE)}
    best = min(ways, key=lambda way: len(ways[way]))
    return bytes([best]) + ways[best]


def _expanded(part: bytes) -> bytes:
    way, text = part[0], part[1:]
    return text if way == PLAIN else zlib.decompress(text) if way == SHORTER else lzma.decompress(text)


def _said(part: bytes) -> tuple[str, dict]:
    """The versions that wrote the data, and what was kept beside the code."""
    n, versions, *more = json.loads(_expanded(part))
    return versions, {"n": n, **(more[0] if more else {})}


def _taken_apart(data: bytes) -> tuple[bytes, bytes, list[bytes], bytes]:
    """Fingerprint, digest of the examples, three parts and the payload; all of it as it was written."""
    if data[: len(MAGIC)] != MAGIC:
        raise ReadError("this was not written by compress: it does not begin with PLSC")
    if len(data) < len(MAGIC) + 2 * PRINT or hashlib.sha256(data[:-TAIL]).digest()[:TAIL] != data[-TAIL:]:
        raise ReadError("the compressed data are truncated or damaged, by their checksum; copy them again")
    at = len(MAGIC) + 2 * PRINT
    prints = data[len(MAGIC) : len(MAGIC) + PRINT], data[len(MAGIC) + PRINT : at]
    parts = []
    for _ in range(3):
        length, at = read_varint(data, at)
        parts.append(data[at : at + length])
        at += length
    return *prints, parts, data[at:-TAIL]


__all__ = ["compress", "decompress", "digest", "fingerprint", "note_of"]
