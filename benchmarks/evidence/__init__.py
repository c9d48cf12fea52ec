"""Does the certified-bound metric find cells whose trained networks have larger certified radii?

python -m benchmarks.evidence --preset digits --out DIR
"""
