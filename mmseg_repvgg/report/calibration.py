"""How well the confidence of predictions matches their accuracy."""

import numpy as np

BINS = 15


class Reliability:
    """Sums over pixels in bins of equal width of the confidence.

    Confidence is the probability of the predicted class.

    Attributes:
        pixels: Shape (bins,), number of pixels.
        correct: Shape (bins,), number of pixels with the right label.
        confidence: Shape (bins,), sum of their confidences.
    """

    def __init__(self, bins: int = BINS) -> None:
        self.pixels = np.zeros(bins, np.int64)
        self.correct = np.zeros(bins, np.int64)
        self.confidence = np.zeros(bins)

    def add(self, confidence: np.ndarray, correct: np.ndarray) -> None:
        """Add pixels.

        Args:
            confidence: Shape (N,), from 0 to 1.
            correct: Shape (N,), bool.
        """
        bins = len(self.pixels)
        which = np.minimum((confidence * bins).astype(np.uint8), bins - 1)
        self.pixels += np.bincount(which, minlength=bins)
        self.correct += np.bincount(which[correct], minlength=bins)
        self.confidence += np.bincount(which, confidence, bins)

    def expected_error(self) -> float:
        """Return the expected calibration error (ECE), from 0 to 1.

        It is the mean over all pixels of the difference between accuracy and mean
        confidence of their bin (Guo et al., "On Calibration of Modern Neural Networks",
        ICML 2017).
        """
        gaps = np.abs(self.correct - self.confidence)
        return float(gaps.sum() / max(self.pixels.sum(), 1))
