"""A package of its own, so that no other package called `tests` on the machine is taken for this one."""
