"""The live page: a run in the browser while it is simulated, and a seat in it; needs the extra ``serve``."""
