"""Measure the errors of a segmentor on a data set, and show them on one HTML page."""
