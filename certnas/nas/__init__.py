"""Neural architecture search: the DARTS space, robustness metrics as terms of the objective, and search algorithms."""
