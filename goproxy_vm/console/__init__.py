"""The commands that ask a running server, through its admin API; shell completion."""
