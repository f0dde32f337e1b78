"""`python -m benchmarks [NAME …]`: run the benchmarks, or some of them, and print what they say."""

import sys

from benchmarks import (
    break_even,
    checkpoints,
    first_layer,
    gradients,
    growth,
    hidden_states,
    loops,
    memory,
    pooled,
    reading_back,
    scale,
    statistics_memory,
    training,
    workers,
)

BENCHMARKS = {
    "hidden_states": hidden_states.main,
    "hidden_states_stages": hidden_states.stages,
    "first_layer": first_layer.main,
    "pooled": pooled.main,
    "gradients": gradients.main,
    "loops": loops.main,
    "memory": memory.main,
    "statistics_memory": statistics_memory.main,
    "workers": workers.main,
    "checkpoints": checkpoints.main,
    "training": training.main,
    "growth": growth.main,
    "scale": scale.main,
    "reading_back": reading_back.main,
    "break_even": break_even.main,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or BENCHMARKS:
        print(f"\n{name}")
        BENCHMARKS[name]()
