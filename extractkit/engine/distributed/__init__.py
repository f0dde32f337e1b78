"""One job on many workers: each holds the model and stores shards, the driver alone commits them.

`messages.py` is what driver and workers say to each other, `worker.py` what a worker does,
`driver.py` who gets which shard and what is done about workers that die, hang or return garbage.
There is one file for each kind of worker: `processes.py`, `ray_actors.py`.
"""
