"""The silo's background process: ``python -m octopus_desktop.daemon.main --home DIR``. No torch, no ORM, no pyarrow.

How it fits together::

    local_api/   one file a noun of wire/pb/local.proto: checks the token, calls a service, answers
    services/    one file a noun: does the I/O; the only writers of the database
    reducer.py   decides: the life of an offer and its run, events in, new row and instructions out; pure
    core.py      Silo: the open database, the audit chain, the hub; one ``change()`` is one transaction and its events
    hub.py       numbers events, keeps the last ones, feeds each watcher; coalesces the frequent ones at 10 Hz
    mail.py      the silo's mail with one federation; mail_view.py each carrier's part of it (MailOwner)
    services/agents.py  further machines of the silo, by the port of ``nodes``; services/spread.py  runs that span them
    supervisor.py  one runner process per approved run
    inspect.py   reads a dataset in a short-lived process of its own

Everything runs on one event loop in one thread; what takes long goes to a thread (digests, package checks) or to a
child process (datasets, training). Crash-only: start-up reconciles rows, mail and processes; shutdown does nothing.
"""
