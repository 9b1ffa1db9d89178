"""Metrics of a confusion matrix.

A confusion matrix is of shape (classes, classes); entry (t, p) is the number of pixels
of class t that are predicted as p. Metrics are shares from 0 to 1, NaN for a class that
they are not defined for.
"""

import warnings

import numpy as np


def iou(confusion: np.ndarray) -> np.ndarray:
    """Return the intersection over union of each class, shape (..., classes)."""
    right = _diagonal(confusion)
    return _ratio(right, confusion.sum(-1) + confusion.sum(-2) - right)


def recall(confusion: np.ndarray) -> np.ndarray:
    """Return the share of each class that is predicted as it, which mmseg calls Acc."""
    return _ratio(_diagonal(confusion), confusion.sum(-1))


def precision(confusion: np.ndarray) -> np.ndarray:
    """Return the share of the predictions of each class that is right."""
    return _ratio(_diagonal(confusion), confusion.sum(-2))


def accuracy(confusion: np.ndarray) -> float:
    """Return the share of pixels that are right, which mmseg calls aAcc."""
    return float(_ratio(_diagonal(confusion).sum(), confusion.sum()))


def mean(values: np.ndarray) -> float:
    """Return the mean over the classes that a metric is defined for, else NaN."""
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Mean of empty slice')
        return float(np.nanmean(values))


def largest_confusions(confusion: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """Return the most frequent errors: true class, predicted class and pixels."""
    errors = confusion.copy()
    np.fill_diagonal(errors, 0)
    order = np.argsort(-errors, axis=None, kind='stable')[:count]
    pairs = zip(*np.unravel_index(order, errors.shape))
    found = [(int(t), int(p), int(errors[t, p])) for t, p in pairs]
    return [each for each in found if each[2]]


def _diagonal(confusion: np.ndarray) -> np.ndarray:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(invalid='ignore'):
        return np.true_divide(part, whole)
