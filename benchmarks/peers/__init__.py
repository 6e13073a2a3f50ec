"""Whole jobs beside the simulators that a user would pick instead."""
