"""How an option is declared, once, and where its value may come from.

`fields.py`  what a declared option is: type, unit, range, default, sentence; records of checked, immutable values
`options.py` the options of serving; those of the policy are declared in kacore/policy/policy.py in the same way
`sources.py` values from flags, KACORE_* variables, a file of variables and a table of kacore.toml, with who said them
`envfile.py` a file of KEY=VALUE lines

Knows no server and no policy. A server's start waits for it, so it imports nothing that takes time.
"""
