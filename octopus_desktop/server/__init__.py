"""The federation server: enrolment, members, jobs, runs, and the coordinators' supervision. No torch here.

``home.py`` the server's directory and keys · ``main.py`` the process, wired · ``app.py`` ``Federation``, what all doors
share · ``members.py`` invitations, enrolment, revocation · ``catalogue.py`` submitted packages · ``reducer.py`` a run's
life, pure · ``runs.py`` the shell around it · ``mail.py`` the server's mailboxes, ``mail_view.py`` a carrier's part of
them · ``carriers.py`` the carriers' ends, ``carrier_files.py`` their settings · ``supervisor.py`` coordinators as child
processes · ``network.py`` the one network port · ``operator_api.py`` the private socket ·
``coordinator.py`` the process that drives one run's rounds.

Rows are the truth. What the server does at a start, at a link's greeting and at each event is the same: look at the
rows, and close the difference.
"""
