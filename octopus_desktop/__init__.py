"""Octopus Desktop: a data silo's own desk in cross-silo federated learning.

The rooms, top to bottom; a room imports only rooms further down this list:

``gui`` the window and the tray · ``cli`` the command line · ``daemon`` the silo's background process · ``server`` the
federation server · ``simulation`` the same job on virtual silos · ``training`` inside a silo's run · ``aggregation``
federated optimisation · ``communication`` the carriers · ``jobs`` the signed package, its review and approval ·
``diagnostics`` the redacted bundle · ``identity`` keys, certificates, secrets · ``storage`` tables, blobs, mailboxes ·
``system`` what the operating system knows · ``wire`` contracts and the tensor codec.

Three habits hold everywhere. *Crash-only*: any process may be killed at any instant; start-up does all the repairing.
*Level-triggered*: rows are the truth, messages only hints. *Pure cores*: decisions are functions from events to
instructions, without I/O; thin shells around them do the I/O.
"""

import os

__version__ = "0.1.0"

# gRPC for Python has no setting for the lowest TLS version, and reads this variable once, when it is loaded. It names
# the suites of TLS 1.2 alone: with one for RSA certificates only, and the federation's being ECDSA, no handshake below
# TLS 1.3 can succeed.
os.environ.setdefault("GRPC_SSL_CIPHER_SUITES", "ECDHE-RSA-AES256-GCM-SHA384")
