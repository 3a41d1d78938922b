"""Off-policy evaluation: estimators, their intervals and diagnostics, and a reward model. NumPy only."""
