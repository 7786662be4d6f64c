from octopus_desktop.wire.pb import federation_pb2 as _federation_pb2
from octopus_desktop.wire.pb import envelope_pb2 as _envelope_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CarriersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CarriersReply(_message.Message):
    __slots__ = ("carriers",)
    CARRIERS_FIELD_NUMBER: _ClassVar[int]
    carriers: _containers.RepeatedCompositeFieldContainer[CarrierInfo]
    def __init__(self, carriers: _Optional[_Iterable[_Union[CarrierInfo, _Mapping]]] = ...) -> None: ...

class CarrierInfo(_message.Message):
    __slots__ = ("name", "settings_json", "username", "secret_kept", "state", "error_code", "error", "links")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_JSON_FIELD_NUMBER: _ClassVar[int]
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    SECRET_KEPT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    name: str
    settings_json: str
    username: str
    secret_kept: bool
    state: str
    error_code: str
    error: str
    links: _containers.RepeatedCompositeFieldContainer[LinkInfo]
    def __init__(self, name: _Optional[str] = ..., settings_json: _Optional[str] = ..., username: _Optional[str] = ..., secret_kept: _Optional[bool] = ..., state: _Optional[str] = ..., error_code: _Optional[str] = ..., error: _Optional[str] = ..., links: _Optional[_Iterable[_Union[LinkInfo, _Mapping]]] = ...) -> None: ...

class LinkInfo(_message.Message):
    __slots__ = ("silo", "phase", "since", "latency_ms", "bytes_in", "bytes_out", "bytes_resumed", "error_code", "error")
    SILO_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    BYTES_IN_FIELD_NUMBER: _ClassVar[int]
    BYTES_OUT_FIELD_NUMBER: _ClassVar[int]
    BYTES_RESUMED_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    silo: str
    phase: str
    since: float
    latency_ms: float
    bytes_in: int
    bytes_out: int
    bytes_resumed: int
    error_code: str
    error: str
    def __init__(self, silo: _Optional[str] = ..., phase: _Optional[str] = ..., since: _Optional[float] = ..., latency_ms: _Optional[float] = ..., bytes_in: _Optional[int] = ..., bytes_out: _Optional[int] = ..., bytes_resumed: _Optional[int] = ..., error_code: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class PutCarrierRequest(_message.Message):
    __slots__ = ("name", "settings_json", "username", "secret", "store_key_id", "store_secret")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_JSON_FIELD_NUMBER: _ClassVar[int]
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    STORE_KEY_ID_FIELD_NUMBER: _ClassVar[int]
    STORE_SECRET_FIELD_NUMBER: _ClassVar[int]
    name: str
    settings_json: str
    username: str
    secret: bytes
    store_key_id: str
    store_secret: bytes
    def __init__(self, name: _Optional[str] = ..., settings_json: _Optional[str] = ..., username: _Optional[str] = ..., secret: _Optional[bytes] = ..., store_key_id: _Optional[str] = ..., store_secret: _Optional[bytes] = ...) -> None: ...

class RemoveCarrierRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class EnrolFileRequest(_message.Message):
    __slots__ = ("file",)
    FILE_FIELD_NUMBER: _ClassVar[int]
    file: bytes
    def __init__(self, file: _Optional[bytes] = ...) -> None: ...

class EnrolFileReply(_message.Message):
    __slots__ = ("file", "name")
    FILE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    file: bytes
    name: str
    def __init__(self, file: _Optional[bytes] = ..., name: _Optional[str] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("federation", "address", "ca_fingerprint", "silos", "silos_connected", "runs_active", "version", "pid")
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CA_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SILOS_FIELD_NUMBER: _ClassVar[int]
    SILOS_CONNECTED_FIELD_NUMBER: _ClassVar[int]
    RUNS_ACTIVE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    federation: str
    address: str
    ca_fingerprint: str
    silos: int
    silos_connected: int
    runs_active: int
    version: str
    pid: int
    def __init__(self, federation: _Optional[str] = ..., address: _Optional[str] = ..., ca_fingerprint: _Optional[str] = ..., silos: _Optional[int] = ..., silos_connected: _Optional[int] = ..., runs_active: _Optional[int] = ..., version: _Optional[str] = ..., pid: _Optional[int] = ...) -> None: ...

class InviteRequest(_message.Message):
    __slots__ = ("role", "name", "valid_s")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALID_S_FIELD_NUMBER: _ClassVar[int]
    role: str
    name: str
    valid_s: float
    def __init__(self, role: _Optional[str] = ..., name: _Optional[str] = ..., valid_s: _Optional[float] = ...) -> None: ...

class InviteReply(_message.Message):
    __slots__ = ("id", "text", "expires_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    text: str
    expires_at: float
    def __init__(self, id: _Optional[str] = ..., text: _Optional[str] = ..., expires_at: _Optional[float] = ...) -> None: ...

class InvitationsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class InvitationInfo(_message.Message):
    __slots__ = ("id", "role", "name", "created_at", "expires_at", "used_at", "used_by")
    ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    USED_AT_FIELD_NUMBER: _ClassVar[int]
    USED_BY_FIELD_NUMBER: _ClassVar[int]
    id: str
    role: str
    name: str
    created_at: float
    expires_at: float
    used_at: float
    used_by: str
    def __init__(self, id: _Optional[str] = ..., role: _Optional[str] = ..., name: _Optional[str] = ..., created_at: _Optional[float] = ..., expires_at: _Optional[float] = ..., used_at: _Optional[float] = ..., used_by: _Optional[str] = ...) -> None: ...

class InvitationsReply(_message.Message):
    __slots__ = ("invitations",)
    INVITATIONS_FIELD_NUMBER: _ClassVar[int]
    invitations: _containers.RepeatedCompositeFieldContainer[InvitationInfo]
    def __init__(self, invitations: _Optional[_Iterable[_Union[InvitationInfo, _Mapping]]] = ...) -> None: ...

class SilosRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SiloInfo(_message.Message):
    __slots__ = ("name", "organisation", "contact", "state", "connected", "last_seen", "enrolled_at", "certificate_expires", "fingerprint", "bytes_in", "bytes_out", "latency_ms", "warnings", "carrier")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ORGANISATION_FIELD_NUMBER: _ClassVar[int]
    CONTACT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_FIELD_NUMBER: _ClassVar[int]
    ENROLLED_AT_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_EXPIRES_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    BYTES_IN_FIELD_NUMBER: _ClassVar[int]
    BYTES_OUT_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    CARRIER_FIELD_NUMBER: _ClassVar[int]
    name: str
    organisation: str
    contact: str
    state: str
    connected: bool
    last_seen: float
    enrolled_at: float
    certificate_expires: float
    fingerprint: str
    bytes_in: int
    bytes_out: int
    latency_ms: float
    warnings: _containers.RepeatedScalarFieldContainer[str]
    carrier: str
    def __init__(self, name: _Optional[str] = ..., organisation: _Optional[str] = ..., contact: _Optional[str] = ..., state: _Optional[str] = ..., connected: _Optional[bool] = ..., last_seen: _Optional[float] = ..., enrolled_at: _Optional[float] = ..., certificate_expires: _Optional[float] = ..., fingerprint: _Optional[str] = ..., bytes_in: _Optional[int] = ..., bytes_out: _Optional[int] = ..., latency_ms: _Optional[float] = ..., warnings: _Optional[_Iterable[str]] = ..., carrier: _Optional[str] = ...) -> None: ...

class SilosReply(_message.Message):
    __slots__ = ("silos",)
    SILOS_FIELD_NUMBER: _ClassVar[int]
    silos: _containers.RepeatedCompositeFieldContainer[SiloInfo]
    def __init__(self, silos: _Optional[_Iterable[_Union[SiloInfo, _Mapping]]] = ...) -> None: ...

class RevokeRequest(_message.Message):
    __slots__ = ("name", "reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    reason: str
    def __init__(self, name: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class AuthorsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AuthorInfo(_message.Message):
    __slots__ = ("name", "fingerprint", "key", "added_at", "state")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    ADDED_AT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    name: str
    fingerprint: str
    key: bytes
    added_at: float
    state: str
    def __init__(self, name: _Optional[str] = ..., fingerprint: _Optional[str] = ..., key: _Optional[bytes] = ..., added_at: _Optional[float] = ..., state: _Optional[str] = ...) -> None: ...

class AuthorsReply(_message.Message):
    __slots__ = ("authors",)
    AUTHORS_FIELD_NUMBER: _ClassVar[int]
    authors: _containers.RepeatedCompositeFieldContainer[AuthorInfo]
    def __init__(self, authors: _Optional[_Iterable[_Union[AuthorInfo, _Mapping]]] = ...) -> None: ...

class AddAuthorRequest(_message.Message):
    __slots__ = ("name", "key")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    name: str
    key: bytes
    def __init__(self, name: _Optional[str] = ..., key: _Optional[bytes] = ...) -> None: ...

class StartRunRequest(_message.Message):
    __slots__ = ("job", "silos", "overrides_json", "offer_valid_s", "request_id", "from_run", "from_round", "central_data_json", "allow_own_strategy")
    JOB_FIELD_NUMBER: _ClassVar[int]
    SILOS_FIELD_NUMBER: _ClassVar[int]
    OVERRIDES_JSON_FIELD_NUMBER: _ClassVar[int]
    OFFER_VALID_S_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    FROM_RUN_FIELD_NUMBER: _ClassVar[int]
    FROM_ROUND_FIELD_NUMBER: _ClassVar[int]
    CENTRAL_DATA_JSON_FIELD_NUMBER: _ClassVar[int]
    ALLOW_OWN_STRATEGY_FIELD_NUMBER: _ClassVar[int]
    job: str
    silos: _containers.RepeatedScalarFieldContainer[str]
    overrides_json: str
    offer_valid_s: float
    request_id: str
    from_run: str
    from_round: int
    central_data_json: str
    allow_own_strategy: bool
    def __init__(self, job: _Optional[str] = ..., silos: _Optional[_Iterable[str]] = ..., overrides_json: _Optional[str] = ..., offer_valid_s: _Optional[float] = ..., request_id: _Optional[str] = ..., from_run: _Optional[str] = ..., from_round: _Optional[int] = ..., central_data_json: _Optional[str] = ..., allow_own_strategy: _Optional[bool] = ...) -> None: ...

class RunSiloInfo(_message.Message):
    __slots__ = ("silo", "state", "round", "fraction", "reason", "metrics", "at", "carrier")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SILO_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    CARRIER_FIELD_NUMBER: _ClassVar[int]
    silo: str
    state: str
    round: int
    fraction: float
    reason: str
    metrics: _containers.ScalarMap[str, float]
    at: float
    carrier: str
    def __init__(self, silo: _Optional[str] = ..., state: _Optional[str] = ..., round: _Optional[int] = ..., fraction: _Optional[float] = ..., reason: _Optional[str] = ..., metrics: _Optional[_Mapping[str, float]] = ..., at: _Optional[float] = ..., carrier: _Optional[str] = ...) -> None: ...

class RunInfo(_message.Message):
    __slots__ = ("id", "job_name", "job_version", "job_digest", "state", "reason", "code", "round", "rounds", "created_at", "started_at", "ended_at", "silos", "history", "model", "bytes_in", "bytes_out", "config_json", "carrier", "best", "best_round", "best_value")
    ID_FIELD_NUMBER: _ClassVar[int]
    JOB_NAME_FIELD_NUMBER: _ClassVar[int]
    JOB_VERSION_FIELD_NUMBER: _ClassVar[int]
    JOB_DIGEST_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    SILOS_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BYTES_IN_FIELD_NUMBER: _ClassVar[int]
    BYTES_OUT_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    CARRIER_FIELD_NUMBER: _ClassVar[int]
    BEST_FIELD_NUMBER: _ClassVar[int]
    BEST_ROUND_FIELD_NUMBER: _ClassVar[int]
    BEST_VALUE_FIELD_NUMBER: _ClassVar[int]
    id: str
    job_name: str
    job_version: str
    job_digest: str
    state: str
    reason: str
    code: str
    round: int
    rounds: int
    created_at: float
    started_at: float
    ended_at: float
    silos: _containers.RepeatedCompositeFieldContainer[RunSiloInfo]
    history: _containers.RepeatedCompositeFieldContainer[RoundRow]
    model: _envelope_pb2.BlobRef
    bytes_in: int
    bytes_out: int
    config_json: str
    carrier: str
    best: _envelope_pb2.BlobRef
    best_round: int
    best_value: float
    def __init__(self, id: _Optional[str] = ..., job_name: _Optional[str] = ..., job_version: _Optional[str] = ..., job_digest: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., code: _Optional[str] = ..., round: _Optional[int] = ..., rounds: _Optional[int] = ..., created_at: _Optional[float] = ..., started_at: _Optional[float] = ..., ended_at: _Optional[float] = ..., silos: _Optional[_Iterable[_Union[RunSiloInfo, _Mapping]]] = ..., history: _Optional[_Iterable[_Union[RoundRow, _Mapping]]] = ..., model: _Optional[_Union[_envelope_pb2.BlobRef, _Mapping]] = ..., bytes_in: _Optional[int] = ..., bytes_out: _Optional[int] = ..., config_json: _Optional[str] = ..., carrier: _Optional[str] = ..., best: _Optional[_Union[_envelope_pb2.BlobRef, _Mapping]] = ..., best_round: _Optional[int] = ..., best_value: _Optional[float] = ...) -> None: ...

class SiloMetrics(_message.Message):
    __slots__ = ("metrics",)
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    METRICS_FIELD_NUMBER: _ClassVar[int]
    metrics: _containers.ScalarMap[str, float]
    def __init__(self, metrics: _Optional[_Mapping[str, float]] = ...) -> None: ...

class RoundRow(_message.Message):
    __slots__ = ("round", "metrics", "answered", "missing", "seconds", "model", "late", "silos")
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
        value: SiloMetrics
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[SiloMetrics, _Mapping]] = ...) -> None: ...
    ROUND_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    SILOS_FIELD_NUMBER: _ClassVar[int]
    round: int
    metrics: _containers.ScalarMap[str, float]
    answered: _containers.RepeatedScalarFieldContainer[str]
    missing: _containers.RepeatedScalarFieldContainer[str]
    seconds: float
    model: _envelope_pb2.BlobRef
    late: _containers.RepeatedScalarFieldContainer[str]
    silos: _containers.MessageMap[str, SiloMetrics]
    def __init__(self, round: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ..., answered: _Optional[_Iterable[str]] = ..., missing: _Optional[_Iterable[str]] = ..., seconds: _Optional[float] = ..., model: _Optional[_Union[_envelope_pb2.BlobRef, _Mapping]] = ..., late: _Optional[_Iterable[str]] = ..., silos: _Optional[_Mapping[str, SiloMetrics]] = ...) -> None: ...

class ListRunsRequest(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: str
    def __init__(self, state: _Optional[str] = ...) -> None: ...

class ListRunsReply(_message.Message):
    __slots__ = ("runs",)
    RUNS_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[RunInfo]
    def __init__(self, runs: _Optional[_Iterable[_Union[RunInfo, _Mapping]]] = ...) -> None: ...

class GetRunRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class StopRunRequest(_message.Message):
    __slots__ = ("id", "reason")
    ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    id: str
    reason: str
    def __init__(self, id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class StateChunk(_message.Message):
    __slots__ = ("slot", "chunk", "strategy")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    slot: str
    chunk: _federation_pb2.Chunk
    strategy: str
    def __init__(self, slot: _Optional[str] = ..., chunk: _Optional[_Union[_federation_pb2.Chunk, _Mapping]] = ..., strategy: _Optional[str] = ...) -> None: ...

class ExportModelRequest(_message.Message):
    __slots__ = ("run_id", "round", "best")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BEST_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    round: int
    best: bool
    def __init__(self, run_id: _Optional[str] = ..., round: _Optional[int] = ..., best: _Optional[bool] = ...) -> None: ...
