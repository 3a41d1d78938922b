"""Fidelity: how much simulated users resemble the people whose ratings they were made from (docs/fidelity.md)."""
