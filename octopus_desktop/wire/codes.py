"""Every stable error code with its meaning. A test proves that each code raised stands here, and the reverse."""

from __future__ import annotations

from typing import Final

CODES: Final[dict[str, str]] = {
    # Enrolment and identity
    "OCT-ENROL-INVALID": "The invitation text cannot be read: damaged, cut off, or not an invitation.",
    "OCT-ENROL-EXPIRED": "The invitation is past its expiry.",
    "OCT-ENROL-USED": "The invitation was used before.",
    "OCT-ENROL-UNKNOWN": "The federation does not know this invitation.",
    "OCT-ENROL-NAME": "The wished name is taken or not allowed.",
    "OCT-ENROL-CA": "The server's certificate does not come from the federation's CA.",
    "OCT-ENROL-ROLE": "The certificate's role does not allow this call.",
    "OCT-CERT-REVOKED": "The federation has revoked this certificate.",
    "OCT-CERT-EXPIRED": "The certificate is past its validity.",
    "OCT-SIGN-BAD": "A signature does not fit what it signs.",
    "OCT-SECRET-STORE": "The place for secrets cannot be used.",
    "OCT-SECRET-PASSPHRASE": "The passphrase is missing or wrong.",
    # Job packages
    "OCT-JOB-TOML": "job.toml has a mistake; the place is named.",
    "OCT-JOB-UNSIGNED": "The package bears no signature.",
    "OCT-JOB-TAMPERED": "The package's content does not fit its digest manifest or signature.",
    "OCT-JOB-AUTHOR": "The package's author is not known to the federation.",
    "OCT-JOB-TOO-LARGE": "The package, unpacked or packed, is over the limit.",
    "OCT-JOB-PATH": "A path in the package would leave its folder.",
    "OCT-JOB-ZIP": "The package is not a readable zip archive.",
    "OCT-JOB-TRAINER": "The package's trainer cannot be imported or is not a ClientTrainer.",
    "OCT-JOB-UNKNOWN": "No job fits the given name or digest.",
    # Data
    "OCT-DATA-MISSING": "A dataset's file is not where it was registered.",
    "OCT-DATA-CHANGED": "A dataset's content differs from what was approved.",
    "OCT-DATA-COLUMN": "A dataset lacks a column that the job needs.",
    "OCT-DATA-KIND": "A dataset's file cannot be read as the given kind.",
    "OCT-DATA-ALIAS": "The alias is taken, unknown or not allowed.",
    # Approval and runs
    "OCT-APPROVAL-MISSING": "No valid approval covers exactly this package, configuration, data and conditions.",
    "OCT-APPROVAL-STATE": "The offer can no longer be decided in this way.",
    "OCT-APPROVAL-CONDITIONS": "A condition of the approval is not met.",
    "OCT-RUN-STATE": "The run's state does not allow this.",
    "OCT-RUN-UNKNOWN": "No run has this id.",
    "OCT-RUN-QUORUM": "Too few silos approved or answered.",
    "OCT-RUN-TRAINER": "The job's own code failed.",
    "OCT-RUN-WORKERS": "The training workers died too often.",
    "OCT-RUN-STOPPED": "The run was stopped by a person.",
    "OCT-MODEL-NAN": "A model or update holds NaN or infinity.",
    "OCT-MODEL-SHAPE": "A model or update has other names, shapes or types than agreed.",
    "OCT-MODEL-WEIGHT": "An answer carries no examples or an impossible number of them.",
    "OCT-STRATEGY-PARAMETER": "A strategy is unknown or one of its parameters is out of range.",
    # Links and carriers
    "OCT-LINK-DOWN": "The federation server cannot be reached.",
    "OCT-LINK-TLS": "The TLS handshake failed.",
    "OCT-LINK-PROTOCOL": "The two sides speak different protocol versions.",
    "OCT-LINK-ENVELOPE": "An envelope is malformed or its sender is not who it claims to be.",
    "OCT-BLOB-CORRUPT": "A blob's bytes do not fit its digest.",
    "OCT-BLOB-MISSING": "A blob is not in the store.",
    "OCT-BLOB-FORBIDDEN": "A blob does not belong to a run of the caller.",
    # Processes and storage
    "OCT-DISK-FULL": "The disk is full.",
    "OCT-PORT-USED": "The network port is in use.",
    "OCT-STATE-LOCKED": "Another process works on the same state.",
    "OCT-STATE-NEWER": "The state was written by a newer version.",
    "OCT-STATE-MISSING": "There is no state here yet.",
    "OCT-STATE-EXISTS": "There is already a state here.",
    "OCT-DAEMON-AWAY": "No daemon answers on the local API.",
    "OCT-DAEMON-PROTOCOL": "Window or command line and daemon are of versions that do not fit.",
    "OCT-DAEMON-TOKEN": "The local API's token is missing or wrong.",
    "OCT-DAEMON-FAULT": "The daemon failed unexpectedly; its log tells more.",
    "OCT-SERVER-AWAY": "No federation server answers on its operator socket.",
    "OCT-CLI-USAGE": "The command's words are off.",
    "OCT-CONFIG-INVALID": "A configuration value is not allowed.",
    "OCT-PACKAGE-MISSING": "A package or system library that this needs is not installed.",
}
