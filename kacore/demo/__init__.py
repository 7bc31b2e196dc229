"""`kacore demo`: a page that shows what keep-alive saves, measured on kacore itself.

One server, on the port asked for, answers the visitor's page and a small JSON interface (`control`). For each
measured load it starts one more kacore server on a free port with the policy chosen on the page (`measured`):
a new origin has no connection left over from before, and that server's counters count this load and nothing
else. What is loaded is made by `scene`.
"""

from kacore.demo.control import Demo, run

__all__ = ["Demo", "run"]
