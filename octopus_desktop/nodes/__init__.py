"""A silo's further machines: the port at which they come in, and the agent that runs on each. Knows no run and no
database; torch is never imported here.

``port.py`` — the daemon's end: one more port, mutual TLS 1.3 by the silo's own CA. ``join.py`` — a machine joins with a
code, and renews its certificate. ``agent.py`` — the process on a further machine; it dials, and tells what the machine
has. ``report.py`` — a machine's facts as the local API shows them, and as they may come from elsewhere. ``looks.py`` —
what an agent looks at when it is asked: data at a path, a Python environment. ``shares.py`` — the parts of runs there.
"""

from __future__ import annotations

PROTOCOL = 1
SERVICE = "octopus.v1.NodePort"
REPORT_S = 5.0  # how often an agent tells what its machine does, and how often the port answers
SILENCE_S = 20.0  # who is not heard for so long is taken for gone
