"""Sweeps: several jobs' runs below one directory, and the index over them.

record     what is recorded of a sweep and of each of its jobs, and reading it back
writing    how a sweep begins and ends, and how each job leaves its record
reader     a sweep as one table, a mapping of runs, labelled arrays
labelled   one array over the swept keys, from all runs
next_steps advice on a sweep that is not finished
"""
