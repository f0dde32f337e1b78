"""From YAML and overrides to a job. Hydra and OmegaConf are known here and nowhere else.

directory   where the YAML files are, and what can be chosen there
quoting     the override grammar: what it refuses, and the quoted form that works
messages    Hydra's and OmegaConf's errors in our words
leaves      the single values of nested data, with their places
typed       what the user typed himself, and so trusts
foreign     what under `hydra` would run code of others
guard       Hydra's loader, which refuses that before Hydra acts on it
convert     the composed configuration as a `Job`; the one place that refuses unknown keys
mapping     the file of `diff --map`
recorded    the job of a run, from its manifest
compose     composing without a command line
app         composing for the command line: single jobs, sweeps, launchers
"""
