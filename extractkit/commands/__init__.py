"""What the verbs do. Those on jobs are Hydra applications, those on runs are not.

output     results go to standard output, all else to standard error
options    the options of verbs on runs, and ours among Hydra's
jobs       run, tensors, plan
runs       show, resume, finalize, rerun, verify, diff
sweeps     what run, show and resume do of a sweep
"""
