"""``octopus …``: one file per noun (``cli/<noun>.py`` with a click group ``cli``), found lazily by ``cli.main``.

Every command takes ``--json``; talks to the daemon or the server through their APIs; prints a UserError as what, why,
next step and code on stderr and exits with 1 (2 for wrong usage). ``cli.common`` has the clients and printers.
"""
