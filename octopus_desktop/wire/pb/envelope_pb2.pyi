from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KIND_UNSPECIFIED: _ClassVar[Kind]
    OFFER: _ClassVar[Kind]
    DECISION: _ClassVar[Kind]
    TASK: _ClassVar[Kind]
    ANSWER: _ClassVar[Kind]
    PROGRESS: _ClassVar[Kind]
    STOP: _ClassVar[Kind]
    FINISHED: _ClassVar[Kind]
    AUDIT_HEAD: _ClassVar[Kind]
    ROUND: _ClassVar[Kind]
KIND_UNSPECIFIED: Kind
OFFER: Kind
DECISION: Kind
TASK: Kind
ANSWER: Kind
PROGRESS: Kind
STOP: Kind
FINISHED: Kind
AUDIT_HEAD: Kind
ROUND: Kind

class BlobRef(_message.Message):
    __slots__ = ("digest", "size", "encoding")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    digest: str
    size: int
    encoding: str
    def __init__(self, digest: _Optional[str] = ..., size: _Optional[int] = ..., encoding: _Optional[str] = ...) -> None: ...

class Envelope(_message.Message):
    __slots__ = ("id", "run_id", "round", "kind", "sender", "recipient", "body", "blobs", "nonce", "signature", "dedupe")
    ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    RECIPIENT_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    DEDUPE_FIELD_NUMBER: _ClassVar[int]
    id: str
    run_id: str
    round: int
    kind: Kind
    sender: str
    recipient: str
    body: bytes
    blobs: _containers.RepeatedCompositeFieldContainer[BlobRef]
    nonce: bytes
    signature: bytes
    dedupe: str
    def __init__(self, id: _Optional[str] = ..., run_id: _Optional[str] = ..., round: _Optional[int] = ..., kind: _Optional[_Union[Kind, str]] = ..., sender: _Optional[str] = ..., recipient: _Optional[str] = ..., body: _Optional[bytes] = ..., blobs: _Optional[_Iterable[_Union[BlobRef, _Mapping]]] = ..., nonce: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., dedupe: _Optional[str] = ...) -> None: ...

class Offer(_message.Message):
    __slots__ = ("job_name", "job_version", "package", "config_json", "config_digest", "author", "author_fingerprint", "purpose", "expires_at", "silos", "federation", "offered_at", "author_key")
    JOB_NAME_FIELD_NUMBER: _ClassVar[int]
    JOB_VERSION_FIELD_NUMBER: _ClassVar[int]
    PACKAGE_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    CONFIG_DIGEST_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    SILOS_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    OFFERED_AT_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_KEY_FIELD_NUMBER: _ClassVar[int]
    job_name: str
    job_version: str
    package: BlobRef
    config_json: str
    config_digest: str
    author: str
    author_fingerprint: str
    purpose: str
    expires_at: float
    silos: _containers.RepeatedScalarFieldContainer[str]
    federation: str
    offered_at: float
    author_key: bytes
    def __init__(self, job_name: _Optional[str] = ..., job_version: _Optional[str] = ..., package: _Optional[_Union[BlobRef, _Mapping]] = ..., config_json: _Optional[str] = ..., config_digest: _Optional[str] = ..., author: _Optional[str] = ..., author_fingerprint: _Optional[str] = ..., purpose: _Optional[str] = ..., expires_at: _Optional[float] = ..., silos: _Optional[_Iterable[str]] = ..., federation: _Optional[str] = ..., offered_at: _Optional[float] = ..., author_key: _Optional[bytes] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("verdict", "reason", "statement", "signature", "approver_key", "decided_by", "decided_at")
    class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        VERDICT_UNSPECIFIED: _ClassVar[Decision.Verdict]
        APPROVED: _ClassVar[Decision.Verdict]
        REJECTED: _ClassVar[Decision.Verdict]
        CHANGES_REQUESTED: _ClassVar[Decision.Verdict]
        REVOKED: _ClassVar[Decision.Verdict]
    VERDICT_UNSPECIFIED: Decision.Verdict
    APPROVED: Decision.Verdict
    REJECTED: Decision.Verdict
    CHANGES_REQUESTED: Decision.Verdict
    REVOKED: Decision.Verdict
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    APPROVER_KEY_FIELD_NUMBER: _ClassVar[int]
    DECIDED_BY_FIELD_NUMBER: _ClassVar[int]
    DECIDED_AT_FIELD_NUMBER: _ClassVar[int]
    verdict: Decision.Verdict
    reason: str
    statement: bytes
    signature: bytes
    approver_key: bytes
    decided_by: str
    decided_at: float
    def __init__(self, verdict: _Optional[_Union[Decision.Verdict, str]] = ..., reason: _Optional[str] = ..., statement: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., approver_key: _Optional[bytes] = ..., decided_by: _Optional[str] = ..., decided_at: _Optional[float] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("task", "epoch", "until", "model", "config_json", "shared")
    class SharedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: BlobRef
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[BlobRef, _Mapping]] = ...) -> None: ...
    TASK_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    task: str
    epoch: int
    until: float
    model: BlobRef
    config_json: str
    shared: _containers.MessageMap[str, BlobRef]
    def __init__(self, task: _Optional[str] = ..., epoch: _Optional[int] = ..., until: _Optional[float] = ..., model: _Optional[_Union[BlobRef, _Mapping]] = ..., config_json: _Optional[str] = ..., shared: _Optional[_Mapping[str, BlobRef]] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("task", "epoch", "examples", "metrics", "update", "train_seconds", "steps", "error", "error_code", "spans", "returned")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class ReturnedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: BlobRef
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[BlobRef, _Mapping]] = ...) -> None: ...
    TASK_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    TRAIN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    RETURNED_FIELD_NUMBER: _ClassVar[int]
    task: str
    epoch: int
    examples: int
    metrics: _containers.ScalarMap[str, float]
    update: BlobRef
    train_seconds: float
    steps: int
    error: str
    error_code: str
    spans: _containers.RepeatedCompositeFieldContainer[Span]
    returned: _containers.MessageMap[str, BlobRef]
    def __init__(self, task: _Optional[str] = ..., epoch: _Optional[int] = ..., examples: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ..., update: _Optional[_Union[BlobRef, _Mapping]] = ..., train_seconds: _Optional[float] = ..., steps: _Optional[int] = ..., error: _Optional[str] = ..., error_code: _Optional[str] = ..., spans: _Optional[_Iterable[_Union[Span, _Mapping]]] = ..., returned: _Optional[_Mapping[str, BlobRef]] = ...) -> None: ...

class Span(_message.Message):
    __slots__ = ("lane", "step", "start", "end")
    LANE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    lane: str
    step: str
    start: float
    end: float
    def __init__(self, lane: _Optional[str] = ..., step: _Optional[str] = ..., start: _Optional[float] = ..., end: _Optional[float] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("state", "fraction", "metrics", "at", "task", "epoch")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    STATE_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    state: str
    fraction: float
    metrics: _containers.ScalarMap[str, float]
    at: float
    task: str
    epoch: int
    def __init__(self, state: _Optional[str] = ..., fraction: _Optional[float] = ..., metrics: _Optional[_Mapping[str, float]] = ..., at: _Optional[float] = ..., task: _Optional[str] = ..., epoch: _Optional[int] = ...) -> None: ...

class Stop(_message.Message):
    __slots__ = ("reason", "code")
    REASON_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    reason: str
    code: str
    def __init__(self, reason: _Optional[str] = ..., code: _Optional[str] = ...) -> None: ...

class Finished(_message.Message):
    __slots__ = ("model", "metrics", "rounds", "best", "best_round", "best_value", "reason")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    BEST_FIELD_NUMBER: _ClassVar[int]
    BEST_ROUND_FIELD_NUMBER: _ClassVar[int]
    BEST_VALUE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    model: BlobRef
    metrics: _containers.ScalarMap[str, float]
    rounds: int
    best: BlobRef
    best_round: int
    best_value: float
    reason: str
    def __init__(self, model: _Optional[_Union[BlobRef, _Mapping]] = ..., metrics: _Optional[_Mapping[str, float]] = ..., rounds: _Optional[int] = ..., best: _Optional[_Union[BlobRef, _Mapping]] = ..., best_round: _Optional[int] = ..., best_value: _Optional[float] = ..., reason: _Optional[str] = ...) -> None: ...

class RoundResult(_message.Message):
    __slots__ = ("rounds", "metrics", "answered", "missing", "seconds", "model", "spans", "late", "silos")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class SilosEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: SiloNumbers
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[SiloNumbers, _Mapping]] = ...) -> None: ...
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    SILOS_FIELD_NUMBER: _ClassVar[int]
    rounds: int
    metrics: _containers.ScalarMap[str, float]
    answered: _containers.RepeatedScalarFieldContainer[str]
    missing: _containers.RepeatedScalarFieldContainer[str]
    seconds: float
    model: BlobRef
    spans: _containers.RepeatedCompositeFieldContainer[Span]
    late: _containers.RepeatedScalarFieldContainer[str]
    silos: _containers.MessageMap[str, SiloNumbers]
    def __init__(self, rounds: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ..., answered: _Optional[_Iterable[str]] = ..., missing: _Optional[_Iterable[str]] = ..., seconds: _Optional[float] = ..., model: _Optional[_Union[BlobRef, _Mapping]] = ..., spans: _Optional[_Iterable[_Union[Span, _Mapping]]] = ..., late: _Optional[_Iterable[str]] = ..., silos: _Optional[_Mapping[str, SiloNumbers]] = ...) -> None: ...

class SiloNumbers(_message.Message):
    __slots__ = ("values",)
    class ValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.ScalarMap[str, float]
    def __init__(self, values: _Optional[_Mapping[str, float]] = ...) -> None: ...

class AuditHead(_message.Message):
    __slots__ = ("seq", "hash", "signature")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    seq: int
    hash: bytes
    signature: bytes
    def __init__(self, seq: _Optional[int] = ..., hash: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...
