"""Measure this project's networks: speed, memory and exactness."""
