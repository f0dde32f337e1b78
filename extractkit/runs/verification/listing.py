"""The journal, line by line, and held against the plan."""


