"""What `verify` looks at, a subject a file."""
