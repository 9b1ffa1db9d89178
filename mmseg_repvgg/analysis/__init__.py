"""Counting, timing and comparing."""
