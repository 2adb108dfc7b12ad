"""What the command line runs, one file per command: its options, and the function that runs it."""
