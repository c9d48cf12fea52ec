"""The passes are functions of intervals and relaxations.  They know no method and hold no state of their own.

`ibp` and `zonotope` go forward, `crown` goes backward.  `patches` takes coefficients through operators as patches of an
image, and `early_stop` removes rows whose sign is decided.
"""
