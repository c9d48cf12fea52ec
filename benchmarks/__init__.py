"""Measurements of certnas: `python -m benchmarks.NAME --out DIR` keeps a JSON record and prints a table."""
