"""Benchmarks of certnas: `python -m benchmarks.NAME --out DIR` stores a JSON record and prints a table."""
