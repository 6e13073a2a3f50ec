"""The experiments: one file each, `get_config()` or `get_sweep()`.

Installed as `fedjax_sim.configs`; `--config=quickstart` finds one by name.
"""
