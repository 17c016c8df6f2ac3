r"""Anomalies: which examples do not belong, with the rate of false alarms that was promised.

from plausible.uses import anomaly
found = anomaly.detector(model, calibration)      # clean rows that the model was not fitted on
found.is_anomaly(X, alpha=0.01)                   # flags one clean row in a hundred, on average, and no more
found.p_value(X), found.score(X), found.explain(X)

anomaly.AnomalyDetector().fit(X).predict(Y)       # scikit-learn's way: -1 and 1
anomaly.clean_fit(model, X, share=0.02)           # the oddest rows taken out, and what that changed
anomaly.unusual(model, X)                         # rows compared with each other, each by a model without it
"""

from plausible.uses.anomaly.blame import Blame
from plausible.uses.anomaly.cleaning import Cleaned, Unusual, clean_fit, unusual
from plausible.uses.anomaly.detector import Detector, detector
from plausible.uses.anomaly.neighbours import Neighbours
from plausible.uses.anomaly.outliers import AnomalyDetector

__all__ = [
    "AnomalyDetector",
    "Blame",
    "Cleaned",
    "Detector",
    "Neighbours",
    "Unusual",
    "clean_fit",
    "detector",
    "unusual",
]
