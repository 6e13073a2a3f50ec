"""What this machine makes of the simulator: `python launch/bench.py`.

One file a part; `main` has the flags and the table of them. Everything is measured in
one process; what is compared runs alternately, and the best of several repetitions
counts.
"""
