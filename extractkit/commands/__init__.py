"""Verbs of the command line: on jobs, which are Hydra applications; on runs; and on sweeps."""
