"""Off-policy evaluation of recommenders on a run folder or a logged table, and its calibration: ``recsim-env ope``."""
