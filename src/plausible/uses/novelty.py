r"""Novelty: does a fitted model draw new examples, or does it hand out its training rows?

    d(x) = distance from x to the nearest training row

Samples are held against rows the model has not seen: how far d(sample) lies below d(held-out row), how many samples are
equal to a training row, and which come nearest to one. Two tests say whether that is more than chance: the distances
(`evaluate.data_copying`) and the share of exact copies (Fisher's exact test).

Reference: Meehan, Chaudhuri and Dasgupta, A non-parametric test to detect data-copying in generative models, 2020,
https://arxiv.org/abs/2004.05675
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from plausible.atomic import write_atomically
from plausible.base import rows_fingerprint
from plausible.data import take
from plausible.errors import DataError, PlausibleWarning
from plausible.evaluate.novelty import Copying, Novelty, against, cells_of, copying, nearest
from plausible.evaluate.two_sample import features
from plausible.randomness import generator, row_hash, seed_of
from plausible.space import Space
from plausible.space.unheard import tamed

ALPHA = 0.01  # how often a model that copies nothing is accused
LEAST_ROWS = 20  # held-out rows
LEAK = 1e-3  # p-value below which held-out rows repeat training rows too often to have been held out
FURTHER = 3.0  # standard errors beyond which samples are said to lie further off
PAIRS = 12


@dataclass(frozen=True)
class Memory:
    """What a model remembers of its training rows.

    Args:
        summary: distances and copies in numbers, against held-out rows.
        copying: the test on distances.
        copies_p_value: how often as many exact copies would be among samples if they were as rare as among held-out
            rows.
        distance: from each sample to its nearest training row, in features (see `evaluate.features`), (n,).
        nearest: which training row that is, (n,).
        overlap: number of held-out rows equal to a training row.
        notes: what was found amiss with the rows that were given.
    """

    summary: Novelty
    copying: Copying
    copies_p_value: float
    distance: np.ndarray
    nearest: np.ndarray
    overlap: int
    notes: tuple[str, ...]
    space: Space
    samples: torch.Tensor = field(repr=False)
    train: torch.Tensor = field(repr=False)

    @property
    def p_value(self) -> float:
        """Of both tests together: twice the smaller of the two, at most 1."""
        return min(1.0, 2 * min(self.copying.p_value, self.copies_p_value))

    @property
    def memorised(self) -> bool:
        """Whether samples copy training rows more than chance explains, at the level of 1 %."""
        return self.p_value < ALPHA

    def __str__(self) -> str:
        return "\n".join([self.verdict, str(self.summary), f"{self.copying}; p = {self.p_value:.2g}", *self.notes])

    @property
    def verdict(self) -> str:
        """The finding in a sentence."""
        if not self.memorised and self.copying.z > FURTHER:
            return (
                "no copying: samples lie further from the training rows than held-out rows do, as of too wide a model"
            )
        if not self.memorised:
            return "no copying: samples are as far from the training rows as held-out rows are, but for chance"
        if self.copies_p_value < self.copying.p_value:
            return f"the model copies: {self.summary.copies:.1%} of its samples are training rows"
        return "the model copies: its samples lie nearer to the training rows than held-out rows do"

    def pairs(self, n: int = PAIRS) -> tuple[Any, Any, np.ndarray]:
        """Return the samples nearest to a training row, those rows, and their distances, nearest first."""
        order = np.argsort(self.distance, kind="stable")[:n]
        rows = self.nearest[order]
        return self.space.decode(self.samples[order]), self.space.decode(self.train[rows]), self.distance[order]

    def table(self, n: int = PAIRS) -> Any:
        """Return `pairs` of a table or of texts as a DataFrame, a sample above its training row.

        Raises:
            DataError: the examples are no rows of a table and no texts.
        """
        import pandas as pd

        if self.space.type not in ("table", "text"):
            raise DataError(f"{self.space.type}s make no table; take `pairs`, or write a picture or a page")
        made, real, distance = (_as_frame(x) for x in self.pairs(n))
        both = pd.concat([made, real]).iloc[np.arange(2 * len(made)).reshape(2, -1).T.ravel()]
        index = pd.MultiIndex.from_product([range(1, len(made) + 1), ["sample", "training row"]], names=["pair", ""])
        both = both.set_axis(index)
        both.insert(0, "distance", np.repeat(distance.to_numpy().ravel(), 2))
        return both

    def write(self, path: str | Path, n: int = PAIRS) -> Path:
        """Write a page (.html), the pairs as a picture (.png, of images) or as a table (.csv); return the path.

        Raises:
            DataError: these examples have no such form.
        """

        path = Path(path)
        check_form(path, self.space)
        if path.suffix == ".html":
            from plausible.evaluate.pairs import page

            blob = page(self, n).encode()
        elif path.suffix == ".png":
            from plausible.evaluate.pairs import picture

            blob = picture(self.space, *self.pairs(n)[:2])
        else:
            blob = self.table(n).to_csv().encode()
        write_atomically(path, blob)
        return path


def check_form(path: Path, space: Space) -> None:
    """Refuse a suffix that is no form for pairs of such examples; said before anything is drawn."""
    forms = {"image": (".html", ".png"), "table": (".html", ".csv"), "text": (".html", ".csv")}
    allowed = forms.get(space.type, (".html",))
    if path.suffix not in allowed:
        raise DataError(f"pairs of {space.type}s can be written to {', '.join(allowed)}; got {path.name!r}")


def novelty(
    model: Any, train: Any, held_out: Any, *, n: int | None = None, context: Any = None, random_state: Any = None
) -> Memory:
    """Draw from a fitted model and hold the samples against its training rows and against held-out rows.

    Args:
        model: a fitted model of any family.
        train: the examples it was fitted on.
        held_out: examples of the same origin that it has not seen, at least 20. Those that are training rows after all
            are left out, with a warning, where they are more than twins among the training rows explain; so are rows
            with a value that no row of the fit could have had, such as a new level.
        n: how many samples; as many as held-out rows by default. More of both see less copying.
        context: of a model of p(x | c), the context of the held-out rows; samples are drawn for the same.
        random_state: seed of the draws; None draws fresh ones.

    Returns:
        A `Memory`: print it, ask whether `memorised`, look at `pairs`, or `write` a page.

    Raises:
        SpaceError: the examples do not look like what the model was fitted on.
        DataError: too few held-out rows are left.
    """
    check_is_fitted(model, "module_")
    space, rng = model.space_, generator(random_state)
    held_out, context, unheard = _heard(space, held_out, context)
    known, unseen = space.encode(train), space.encode(held_out)
    kept, overlap, notes = _unseen(known, unseen)
    notes += unheard
    if rows_fingerprint(known) != model.fingerprint_:
        notes.append("the model was fitted on other rows than these training rows, or on these in another order")
    if len(kept) < LEAST_ROWS:
        raise DataError(
            f"expected at least {LEAST_ROWS} held-out rows, got {len(unseen):,}, of which {overlap:,} are training rows"
        )
    n = len(kept) if n is None else n
    if context is not None:
        context = take(context, kept[np.arange(n) % len(kept)])
    made = space.encode(model.sample(n, context=context, random_state=seed_of(rng)))
    missing = unseen.is_floating_point() and bool(unseen.isnan().any())
    made = _with_holes(made, unseen[kept], seed_of(rng)) if missing and not space.ragged else made
    x, real, rows = (features(space, codes, real=known) for codes in (made, unseen[kept], known))
    (distance, index), (yardstick, _) = nearest(x, rows), nearest(real, rows)
    cells = cells_of(rows, min(max(len(kept) // 50, 1), 10), seed_of(rng) % 2**32, x, real)
    return Memory(
        summary=against(yardstick, distance),
        copying=copying(distance, yardstick, *cells),
        copies_p_value=_more_copies(distance == 0, yardstick == 0),
        distance=distance,
        nearest=index,
        overlap=overlap,
        notes=tuple(notes),
        space=space,
        samples=made,
        train=known,
    )


def _heard(space: Space, X: Any, context: Any) -> tuple[Any, Any, list[str]]:
    """Leave out the rows that have no place in the space, and say so."""
    known, unheard = tamed(space, X)
    if unheard is None:
        return X, context, []
    said = f"{unheard}, and are left out here" if unheard.rows.sum() > 1 else f"{unheard}, and is left out here"
    warnings.warn(said, PlausibleWarning, stacklevel=3)
    rows = np.flatnonzero(~unheard.rows)
    return take(known, rows), None if context is None else take(context, rows), [said]


def _unseen(known: torch.Tensor, unseen: torch.Tensor) -> tuple[np.ndarray, int, list[str]]:
    """The held-out rows to be used, how many are training rows, and what is to be said of that.

    A held-out row repeats a training row as often as a training row repeats another: more than that is a leak.
    """
    from scipy.stats import binomtest

    hashes, theirs = row_hash(known).numpy(), row_hash(unseen).numpy()
    same = np.isin(theirs, hashes)
    overlap = int(same.sum())
    if not overlap:
        return np.arange(len(theirs)), 0, []
    _, copy_of, times = np.unique(hashes, return_inverse=True, return_counts=True)
    twins = float((times[copy_of] > 1).mean())
    expected = (twins * len(hashes) + 1) / (len(hashes) + 2)
    said = f"{overlap:,} of {len(theirs):,} held-out rows are training rows"
    if binomtest(overlap, len(theirs), expected, alternative="greater").pvalue >= LEAK:
        return (
            np.arange(len(theirs)),
            overlap,
            [f"{said}, no more than chance explains: {twins:.1%} of the training rows have a twin"],
        )
    said += f", where {twins:.1%} of the training rows have a twin: they were not held out, and are left out here"
    warnings.warn(said, PlausibleWarning, stacklevel=3)
    return np.flatnonzero(~same), overlap, [said]


def _with_holes(codes: torch.Tensor, like: torch.Tensor, seed: int) -> torch.Tensor:
    """Blank cells of samples as they are blank in held-out rows."""
    chosen = np.random.default_rng(seed).integers(len(like), size=len(codes))
    return torch.where(like[chosen].isnan(), torch.nan, codes.double())


def _more_copies(made: np.ndarray, real: np.ndarray) -> float:
    """One-sided p-value of Fisher's exact test that copies are no more frequent among samples."""
    from scipy.stats import fisher_exact

    table = [[made.sum(), (~made).sum()], [real.sum(), (~real).sum()]]
    return float(fisher_exact(table, alternative="greater").pvalue)


def _as_frame(x: Any) -> Any:
    import pandas as pd

    if isinstance(x, pd.DataFrame):
        return x.reset_index(drop=True)
    x = np.asarray(x, dtype=object if isinstance(x, list) else None)
    return pd.DataFrame(x) if x.ndim == 2 else pd.DataFrame({"text" if x.dtype == object else "distance": x})
