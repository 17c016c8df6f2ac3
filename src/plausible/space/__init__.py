"""The sample space: what one example is.

A `Space` knows the kind of every dimension, the shape of an example, its reference measure, and the way between what
the user has (a DataFrame, an array, strings) and *codes*: a tensor of shape (n, \\*shape) in which a level is its
index, an integer or a real is itself, and a missing cell is NaN. Everything downstream sees codes only.

    kind         codes            measure     example
    binary       0, 1             counting    yes/no, a binarised pixel
    categorical  0 .. K-1         counting    a colour, a character
    ordinal      0 .. K-1         counting    a grade, an 8-bit pixel
    count        the integer      counting    visits, an age in years
    real         the number       Lebesgue    a length
"""

from plausible.space.column import KINDS, MAX_LEVELS, MAX_SPAN, Column, Kind
from plausible.space.counting import parameter_counts
from plausible.space.inference import infer, infer_text
from plausible.space.spaces import SPACES, Audio, Clips, Image, Series, Space, Table, Text, from_json
from plausible.space.vocabulary import VOCABULARIES, BytePairs, Characters

__all__ = [
    "KINDS",
    "MAX_LEVELS",
    "MAX_SPAN",
    "SPACES",
    "VOCABULARIES",
    "Audio",
    "BytePairs",
    "Characters",
    "Clips",
    "Column",
    "Image",
    "Kind",
    "Series",
    "Space",
    "Table",
    "Text",
    "from_json",
    "infer",
    "infer_text",
    "parameter_counts",
]
