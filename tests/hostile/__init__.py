"""Attacks, small enough for every run: what one client sends must not hurt another.

Each test does to a server what a hostile VM could do to it, and measures what the others would notice: the
memory that is held for the attacker, the order of answers, a second client that is served. The amounts are
small, for it is the bound that is tested and not the machine: an attack that grows with what is sent shows
with little. The bounds themselves stand in SECURITY.md.
"""
