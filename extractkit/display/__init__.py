"""Output for people: functions from values to rich renderables, and the progress of a job.

Names come from other people's models and may contain anything, so all of them pass through
`output.safe`.
"""
