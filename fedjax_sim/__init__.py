"""Federated learning under poisoning attacks, simulated in JAX.

The layers, from the top: `experiment` (the run loop), `federation` (one round as a
pure function), `defenses`, `attacks`, `clients`, `models`, `data`. Imports point down
only.
"""
