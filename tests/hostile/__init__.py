"""Attacks: what one client, an upstream or another user of the host does must not hurt the others.

Each test does to a server what a hostile VM could do to it, and measures what the others would notice: the
memory that is held for the attacker, the order of answers, a second client that is served, the time to a
stop. In ``make test`` the amounts are small, for it is the bound that is tested and not the machine: an
attack that grows with what is sent shows with little. ``make attack`` runs them large (CONTRIBUTING.md). The
bounds themselves stand in SECURITY.md, with the figures that were seen.
"""
