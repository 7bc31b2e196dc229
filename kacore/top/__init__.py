"""`kacore top`: the status document of an admin listener in a terminal.

`source` asks for it and follows it through restarts, `text` words it as one plain table, `screen` shows it, with Textual,
which is the extra `top`. All that comes from a server may be hostile: it is bounded in size, and shown without control
characters.
"""
