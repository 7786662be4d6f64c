from octopus_desktop.wire.pb import envelope_pb2 as _envelope_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Empty(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Ack(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ById(_message.Message):
    __slots__ = ("id", "request_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    request_id: str
    def __init__(self, id: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class LocalHelloRequest(_message.Message):
    __slots__ = ("protocol_min", "protocol_max", "client", "version")
    PROTOCOL_MIN_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_MAX_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    protocol_min: int
    protocol_max: int
    client: str
    version: str
    def __init__(self, protocol_min: _Optional[int] = ..., protocol_max: _Optional[int] = ..., client: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class LocalHelloReply(_message.Message):
    __slots__ = ("protocol", "boot_id", "version", "capabilities", "pid", "home")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    HOME_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    boot_id: str
    version: str
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    pid: int
    home: str
    def __init__(self, protocol: _Optional[int] = ..., boot_id: _Optional[str] = ..., version: _Optional[str] = ..., capabilities: _Optional[_Iterable[str]] = ..., pid: _Optional[int] = ..., home: _Optional[str] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("boot_id", "after")
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    boot_id: str
    after: int
    def __init__(self, boot_id: _Optional[str] = ..., after: _Optional[int] = ...) -> None: ...

class ShutdownRequest(_message.Message):
    __slots__ = ("request_id",)
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    def __init__(self, request_id: _Optional[str] = ...) -> None: ...

class DaemonStatus(_message.Message):
    __slots__ = ("organisation", "administrator", "version", "boot_id", "started_at", "secrets", "configured", "home", "bytes_out_today", "paused", "approvers")
    ORGANISATION_FIELD_NUMBER: _ClassVar[int]
    ADMINISTRATOR_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    SECRETS_FIELD_NUMBER: _ClassVar[int]
    CONFIGURED_FIELD_NUMBER: _ClassVar[int]
    HOME_FIELD_NUMBER: _ClassVar[int]
    BYTES_OUT_TODAY_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    APPROVERS_FIELD_NUMBER: _ClassVar[int]
    organisation: str
    administrator: str
    version: str
    boot_id: str
    started_at: float
    secrets: str
    configured: bool
    home: str
    bytes_out_today: int
    paused: bool
    approvers: _containers.RepeatedCompositeFieldContainer[Approver]
    def __init__(self, organisation: _Optional[str] = ..., administrator: _Optional[str] = ..., version: _Optional[str] = ..., boot_id: _Optional[str] = ..., started_at: _Optional[float] = ..., secrets: _Optional[str] = ..., configured: _Optional[bool] = ..., home: _Optional[str] = ..., bytes_out_today: _Optional[int] = ..., paused: _Optional[bool] = ..., approvers: _Optional[_Iterable[_Union[Approver, _Mapping]]] = ...) -> None: ...

class Approver(_message.Message):
    __slots__ = ("name", "fingerprint", "key", "added_at", "kind")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    ADDED_AT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    name: str
    fingerprint: str
    key: bytes
    added_at: float
    kind: str
    def __init__(self, name: _Optional[str] = ..., fingerprint: _Optional[str] = ..., key: _Optional[bytes] = ..., added_at: _Optional[float] = ..., kind: _Optional[str] = ...) -> None: ...

class ConfigureRequest(_message.Message):
    __slots__ = ("organisation", "administrator", "approver_key", "request_id")
    ORGANISATION_FIELD_NUMBER: _ClassVar[int]
    ADMINISTRATOR_FIELD_NUMBER: _ClassVar[int]
    APPROVER_KEY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    organisation: str
    administrator: str
    approver_key: bytes
    request_id: str
    def __init__(self, organisation: _Optional[str] = ..., administrator: _Optional[str] = ..., approver_key: _Optional[bytes] = ..., request_id: _Optional[str] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("number", "snapshot", "daemon", "federation", "node", "dataset", "offer", "run", "policy", "audit", "removed", "logs", "notice", "runtime", "slurm_profile")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    DAEMON_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    OFFER_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    AUDIT_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    LOGS_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    SLURM_PROFILE_FIELD_NUMBER: _ClassVar[int]
    number: int
    snapshot: Snapshot
    daemon: DaemonStatus
    federation: Federation
    node: Node
    dataset: Dataset
    offer: SiloOffer
    run: Run
    policy: Policy
    audit: AuditEntry
    removed: Removed
    logs: LogPageReply
    notice: Notice
    runtime: Runtime
    slurm_profile: SlurmProfile
    def __init__(self, number: _Optional[int] = ..., snapshot: _Optional[_Union[Snapshot, _Mapping]] = ..., daemon: _Optional[_Union[DaemonStatus, _Mapping]] = ..., federation: _Optional[_Union[Federation, _Mapping]] = ..., node: _Optional[_Union[Node, _Mapping]] = ..., dataset: _Optional[_Union[Dataset, _Mapping]] = ..., offer: _Optional[_Union[SiloOffer, _Mapping]] = ..., run: _Optional[_Union[Run, _Mapping]] = ..., policy: _Optional[_Union[Policy, _Mapping]] = ..., audit: _Optional[_Union[AuditEntry, _Mapping]] = ..., removed: _Optional[_Union[Removed, _Mapping]] = ..., logs: _Optional[_Union[LogPageReply, _Mapping]] = ..., notice: _Optional[_Union[Notice, _Mapping]] = ..., runtime: _Optional[_Union[Runtime, _Mapping]] = ..., slurm_profile: _Optional[_Union[SlurmProfile, _Mapping]] = ...) -> None: ...

class Removed(_message.Message):
    __slots__ = ("kind", "id")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    kind: str
    id: str
    def __init__(self, kind: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class Notice(_message.Message):
    __slots__ = ("level", "code", "text", "subject_kind", "subject_id", "at")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_KIND_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    level: str
    code: str
    text: str
    subject_kind: str
    subject_id: str
    at: float
    def __init__(self, level: _Optional[str] = ..., code: _Optional[str] = ..., text: _Optional[str] = ..., subject_kind: _Optional[str] = ..., subject_id: _Optional[str] = ..., at: _Optional[float] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("daemon", "federations", "nodes", "datasets", "offers", "runs", "policies", "audit_tail", "runtimes", "slurm_profiles")
    DAEMON_FIELD_NUMBER: _ClassVar[int]
    FEDERATIONS_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    OFFERS_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    AUDIT_TAIL_FIELD_NUMBER: _ClassVar[int]
    RUNTIMES_FIELD_NUMBER: _ClassVar[int]
    SLURM_PROFILES_FIELD_NUMBER: _ClassVar[int]
    daemon: DaemonStatus
    federations: _containers.RepeatedCompositeFieldContainer[Federation]
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    datasets: _containers.RepeatedCompositeFieldContainer[Dataset]
    offers: _containers.RepeatedCompositeFieldContainer[SiloOffer]
    runs: _containers.RepeatedCompositeFieldContainer[Run]
    policies: _containers.RepeatedCompositeFieldContainer[Policy]
    audit_tail: _containers.RepeatedCompositeFieldContainer[AuditEntry]
    runtimes: _containers.RepeatedCompositeFieldContainer[Runtime]
    slurm_profiles: _containers.RepeatedCompositeFieldContainer[SlurmProfile]
    def __init__(self, daemon: _Optional[_Union[DaemonStatus, _Mapping]] = ..., federations: _Optional[_Iterable[_Union[Federation, _Mapping]]] = ..., nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ..., datasets: _Optional[_Iterable[_Union[Dataset, _Mapping]]] = ..., offers: _Optional[_Iterable[_Union[SiloOffer, _Mapping]]] = ..., runs: _Optional[_Iterable[_Union[Run, _Mapping]]] = ..., policies: _Optional[_Iterable[_Union[Policy, _Mapping]]] = ..., audit_tail: _Optional[_Iterable[_Union[AuditEntry, _Mapping]]] = ..., runtimes: _Optional[_Iterable[_Union[Runtime, _Mapping]]] = ..., slurm_profiles: _Optional[_Iterable[_Union[SlurmProfile, _Mapping]]] = ...) -> None: ...

class Federation(_message.Message):
    __slots__ = ("id", "name", "server", "carrier", "link", "latency_ms", "certificate_expires", "ca_fingerprint", "certificate_fingerprint", "silo_name", "enrolled_at", "bytes_in", "bytes_out", "error_code", "error", "link_since", "carriers", "bytes_resumed")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    CARRIER_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_EXPIRES_FIELD_NUMBER: _ClassVar[int]
    CA_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SILO_NAME_FIELD_NUMBER: _ClassVar[int]
    ENROLLED_AT_FIELD_NUMBER: _ClassVar[int]
    BYTES_IN_FIELD_NUMBER: _ClassVar[int]
    BYTES_OUT_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    LINK_SINCE_FIELD_NUMBER: _ClassVar[int]
    CARRIERS_FIELD_NUMBER: _ClassVar[int]
    BYTES_RESUMED_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    server: str
    carrier: str
    link: str
    latency_ms: float
    certificate_expires: float
    ca_fingerprint: str
    certificate_fingerprint: str
    silo_name: str
    enrolled_at: float
    bytes_in: int
    bytes_out: int
    error_code: str
    error: str
    link_since: float
    carriers: _containers.RepeatedCompositeFieldContainer[CarrierView]
    bytes_resumed: int
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., server: _Optional[str] = ..., carrier: _Optional[str] = ..., link: _Optional[str] = ..., latency_ms: _Optional[float] = ..., certificate_expires: _Optional[float] = ..., ca_fingerprint: _Optional[str] = ..., certificate_fingerprint: _Optional[str] = ..., silo_name: _Optional[str] = ..., enrolled_at: _Optional[float] = ..., bytes_in: _Optional[int] = ..., bytes_out: _Optional[int] = ..., error_code: _Optional[str] = ..., error: _Optional[str] = ..., link_since: _Optional[float] = ..., carriers: _Optional[_Iterable[_Union[CarrierView, _Mapping]]] = ..., bytes_resumed: _Optional[int] = ...) -> None: ...

class CarrierView(_message.Message):
    __slots__ = ("name", "title", "settings_json", "own_json", "link", "latency_ms", "bytes_in", "bytes_out", "bytes_resumed", "error_code", "error", "link_since", "secret_kept", "control", "in_use")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_JSON_FIELD_NUMBER: _ClassVar[int]
    OWN_JSON_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    BYTES_IN_FIELD_NUMBER: _ClassVar[int]
    BYTES_OUT_FIELD_NUMBER: _ClassVar[int]
    BYTES_RESUMED_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    LINK_SINCE_FIELD_NUMBER: _ClassVar[int]
    SECRET_KEPT_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    IN_USE_FIELD_NUMBER: _ClassVar[int]
    name: str
    title: str
    settings_json: str
    own_json: str
    link: str
    latency_ms: float
    bytes_in: int
    bytes_out: int
    bytes_resumed: int
    error_code: str
    error: str
    link_since: float
    secret_kept: bool
    control: bool
    in_use: bool
    def __init__(self, name: _Optional[str] = ..., title: _Optional[str] = ..., settings_json: _Optional[str] = ..., own_json: _Optional[str] = ..., link: _Optional[str] = ..., latency_ms: _Optional[float] = ..., bytes_in: _Optional[int] = ..., bytes_out: _Optional[int] = ..., bytes_resumed: _Optional[int] = ..., error_code: _Optional[str] = ..., error: _Optional[str] = ..., link_since: _Optional[float] = ..., secret_kept: _Optional[bool] = ..., control: _Optional[bool] = ..., in_use: _Optional[bool] = ...) -> None: ...

class ConfigureCarrierRequest(_message.Message):
    __slots__ = ("id", "name", "own_json", "secret", "store_secret", "control", "request_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    OWN_JSON_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    STORE_SECRET_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    own_json: str
    secret: bytes
    store_secret: bytes
    control: bool
    request_id: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., own_json: _Optional[str] = ..., secret: _Optional[bytes] = ..., store_secret: _Optional[bytes] = ..., control: _Optional[bool] = ..., request_id: _Optional[str] = ...) -> None: ...

class FileReply(_message.Message):
    __slots__ = ("file", "name")
    FILE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    file: bytes
    name: str
    def __init__(self, file: _Optional[bytes] = ..., name: _Optional[str] = ...) -> None: ...

class EnrolFileLocalRequest(_message.Message):
    __slots__ = ("file", "request_id")
    FILE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    file: bytes
    request_id: str
    def __init__(self, file: _Optional[bytes] = ..., request_id: _Optional[str] = ...) -> None: ...

class InspectRequest(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class InvitationView(_message.Message):
    __slots__ = ("federation", "server", "ca_fingerprint", "expires_at", "role", "id")
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    CA_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    federation: str
    server: str
    ca_fingerprint: str
    expires_at: float
    role: str
    id: str
    def __init__(self, federation: _Optional[str] = ..., server: _Optional[str] = ..., ca_fingerprint: _Optional[str] = ..., expires_at: _Optional[float] = ..., role: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class EnrolLocalRequest(_message.Message):
    __slots__ = ("text", "name", "contact", "request_id", "own_json", "secret")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CONTACT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    OWN_JSON_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    text: str
    name: str
    contact: str
    request_id: str
    own_json: str
    secret: bytes
    def __init__(self, text: _Optional[str] = ..., name: _Optional[str] = ..., contact: _Optional[str] = ..., request_id: _Optional[str] = ..., own_json: _Optional[str] = ..., secret: _Optional[bytes] = ...) -> None: ...

class CheckReply(_message.Message):
    __slots__ = ("steps",)
    STEPS_FIELD_NUMBER: _ClassVar[int]
    steps: _containers.RepeatedCompositeFieldContainer[CheckStep]
    def __init__(self, steps: _Optional[_Iterable[_Union[CheckStep, _Mapping]]] = ...) -> None: ...

class CheckStep(_message.Message):
    __slots__ = ("name", "ok", "detail", "next_step", "ms", "state", "carrier")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    NEXT_STEP_FIELD_NUMBER: _ClassVar[int]
    MS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CARRIER_FIELD_NUMBER: _ClassVar[int]
    name: str
    ok: bool
    detail: str
    next_step: str
    ms: float
    state: str
    carrier: str
    def __init__(self, name: _Optional[str] = ..., ok: _Optional[bool] = ..., detail: _Optional[str] = ..., next_step: _Optional[str] = ..., ms: _Optional[float] = ..., state: _Optional[str] = ..., carrier: _Optional[str] = ...) -> None: ...

class Gpu(_message.Message):
    __slots__ = ("index", "name", "memory_total", "memory_used", "utilisation", "temperature_c", "power_w", "driver")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_FIELD_NUMBER: _ClassVar[int]
    UTILISATION_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_C_FIELD_NUMBER: _ClassVar[int]
    POWER_W_FIELD_NUMBER: _ClassVar[int]
    DRIVER_FIELD_NUMBER: _ClassVar[int]
    index: int
    name: str
    memory_total: int
    memory_used: int
    utilisation: float
    temperature_c: float
    power_w: float
    driver: str
    def __init__(self, index: _Optional[int] = ..., name: _Optional[str] = ..., memory_total: _Optional[int] = ..., memory_used: _Optional[int] = ..., utilisation: _Optional[float] = ..., temperature_c: _Optional[float] = ..., power_w: _Optional[float] = ..., driver: _Optional[str] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("id", "name", "state", "cpu_model", "cpu_count", "cpu_load", "ram_total", "ram_used", "disk_total", "disk_free", "gpus", "os", "python", "torch", "local", "registered_at", "seen_at", "workers_running", "version", "fingerprint", "fault")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CPU_MODEL_FIELD_NUMBER: _ClassVar[int]
    CPU_COUNT_FIELD_NUMBER: _ClassVar[int]
    CPU_LOAD_FIELD_NUMBER: _ClassVar[int]
    RAM_TOTAL_FIELD_NUMBER: _ClassVar[int]
    RAM_USED_FIELD_NUMBER: _ClassVar[int]
    DISK_TOTAL_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    OS_FIELD_NUMBER: _ClassVar[int]
    PYTHON_FIELD_NUMBER: _ClassVar[int]
    TORCH_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_AT_FIELD_NUMBER: _ClassVar[int]
    SEEN_AT_FIELD_NUMBER: _ClassVar[int]
    WORKERS_RUNNING_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    state: str
    cpu_model: str
    cpu_count: int
    cpu_load: float
    ram_total: int
    ram_used: int
    disk_total: int
    disk_free: int
    gpus: _containers.RepeatedCompositeFieldContainer[Gpu]
    os: str
    python: str
    torch: str
    local: bool
    registered_at: float
    seen_at: float
    workers_running: int
    version: str
    fingerprint: str
    fault: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., state: _Optional[str] = ..., cpu_model: _Optional[str] = ..., cpu_count: _Optional[int] = ..., cpu_load: _Optional[float] = ..., ram_total: _Optional[int] = ..., ram_used: _Optional[int] = ..., disk_total: _Optional[int] = ..., disk_free: _Optional[int] = ..., gpus: _Optional[_Iterable[_Union[Gpu, _Mapping]]] = ..., os: _Optional[str] = ..., python: _Optional[str] = ..., torch: _Optional[str] = ..., local: _Optional[bool] = ..., registered_at: _Optional[float] = ..., seen_at: _Optional[float] = ..., workers_running: _Optional[int] = ..., version: _Optional[str] = ..., fingerprint: _Optional[str] = ..., fault: _Optional[str] = ...) -> None: ...

class RegisterNodeRequest(_message.Message):
    __slots__ = ("name", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class InviteNodeRequest(_message.Message):
    __slots__ = ("name", "listen", "address", "valid_s")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LISTEN_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    VALID_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    listen: str
    address: str
    valid_s: float
    def __init__(self, name: _Optional[str] = ..., listen: _Optional[str] = ..., address: _Optional[str] = ..., valid_s: _Optional[float] = ...) -> None: ...

class InviteNodeReply(_message.Message):
    __slots__ = ("code", "expires_at", "address", "ca_fingerprint")
    CODE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CA_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    code: str
    expires_at: float
    address: str
    ca_fingerprint: str
    def __init__(self, code: _Optional[str] = ..., expires_at: _Optional[float] = ..., address: _Optional[str] = ..., ca_fingerprint: _Optional[str] = ...) -> None: ...

class NodeCode(_message.Message):
    __slots__ = ("id", "name", "made_at", "expires_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MADE_AT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    made_at: float
    expires_at: float
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., made_at: _Optional[float] = ..., expires_at: _Optional[float] = ...) -> None: ...

class NodeCodeList(_message.Message):
    __slots__ = ("codes",)
    CODES_FIELD_NUMBER: _ClassVar[int]
    codes: _containers.RepeatedCompositeFieldContainer[NodeCode]
    def __init__(self, codes: _Optional[_Iterable[_Union[NodeCode, _Mapping]]] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("id", "drain", "request_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    drain: bool
    request_id: str
    def __init__(self, id: _Optional[str] = ..., drain: _Optional[bool] = ..., request_id: _Optional[str] = ...) -> None: ...

class Runtime(_message.Message):
    __slots__ = ("id", "name", "path", "state", "python", "torch", "cuda", "packages", "paths", "error", "added_at", "checked_at", "places")
    class PackagesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PYTHON_FIELD_NUMBER: _ClassVar[int]
    TORCH_FIELD_NUMBER: _ClassVar[int]
    CUDA_FIELD_NUMBER: _ClassVar[int]
    PACKAGES_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    ADDED_AT_FIELD_NUMBER: _ClassVar[int]
    CHECKED_AT_FIELD_NUMBER: _ClassVar[int]
    PLACES_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    path: str
    state: str
    python: str
    torch: str
    cuda: str
    packages: _containers.ScalarMap[str, str]
    paths: _containers.RepeatedScalarFieldContainer[str]
    error: str
    added_at: float
    checked_at: float
    places: _containers.RepeatedCompositeFieldContainer[NodePlace]
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., path: _Optional[str] = ..., state: _Optional[str] = ..., python: _Optional[str] = ..., torch: _Optional[str] = ..., cuda: _Optional[str] = ..., packages: _Optional[_Mapping[str, str]] = ..., paths: _Optional[_Iterable[str]] = ..., error: _Optional[str] = ..., added_at: _Optional[float] = ..., checked_at: _Optional[float] = ..., places: _Optional[_Iterable[_Union[NodePlace, _Mapping]]] = ...) -> None: ...

class NodePlace(_message.Message):
    __slots__ = ("node", "path", "state", "error", "checked_at", "python", "torch", "cuda", "packages")
    class PackagesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NODE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CHECKED_AT_FIELD_NUMBER: _ClassVar[int]
    PYTHON_FIELD_NUMBER: _ClassVar[int]
    TORCH_FIELD_NUMBER: _ClassVar[int]
    CUDA_FIELD_NUMBER: _ClassVar[int]
    PACKAGES_FIELD_NUMBER: _ClassVar[int]
    node: str
    path: str
    state: str
    error: str
    checked_at: float
    python: str
    torch: str
    cuda: str
    packages: _containers.ScalarMap[str, str]
    def __init__(self, node: _Optional[str] = ..., path: _Optional[str] = ..., state: _Optional[str] = ..., error: _Optional[str] = ..., checked_at: _Optional[float] = ..., python: _Optional[str] = ..., torch: _Optional[str] = ..., cuda: _Optional[str] = ..., packages: _Optional[_Mapping[str, str]] = ...) -> None: ...

class PlaceRequest(_message.Message):
    __slots__ = ("id", "node", "path", "request_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    node: str
    path: str
    request_id: str
    def __init__(self, id: _Optional[str] = ..., node: _Optional[str] = ..., path: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class SlurmProfile(_message.Message):
    __slots__ = ("id", "name", "partition", "account", "qos", "nodes", "gpus_per_node", "cpus_per_task", "mem", "time", "extra", "address", "alone_s", "state", "said", "error_code", "error", "added_at", "checked_at", "request_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    QOS_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    GPUS_PER_NODE_FIELD_NUMBER: _ClassVar[int]
    CPUS_PER_TASK_FIELD_NUMBER: _ClassVar[int]
    MEM_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    EXTRA_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ALONE_S_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SAID_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    ADDED_AT_FIELD_NUMBER: _ClassVar[int]
    CHECKED_AT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    partition: str
    account: str
    qos: str
    nodes: int
    gpus_per_node: int
    cpus_per_task: int
    mem: str
    time: str
    extra: _containers.RepeatedScalarFieldContainer[str]
    address: str
    alone_s: int
    state: str
    said: str
    error_code: str
    error: str
    added_at: float
    checked_at: float
    request_id: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., partition: _Optional[str] = ..., account: _Optional[str] = ..., qos: _Optional[str] = ..., nodes: _Optional[int] = ..., gpus_per_node: _Optional[int] = ..., cpus_per_task: _Optional[int] = ..., mem: _Optional[str] = ..., time: _Optional[str] = ..., extra: _Optional[_Iterable[str]] = ..., address: _Optional[str] = ..., alone_s: _Optional[int] = ..., state: _Optional[str] = ..., said: _Optional[str] = ..., error_code: _Optional[str] = ..., error: _Optional[str] = ..., added_at: _Optional[float] = ..., checked_at: _Optional[float] = ..., request_id: _Optional[str] = ...) -> None: ...

class LookRuntimeRequest(_message.Message):
    __slots__ = ("path", "id")
    PATH_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    path: str
    id: str
    def __init__(self, path: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class AddRuntimeRequest(_message.Message):
    __slots__ = ("name", "path", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    path: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., path: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class Column(_message.Message):
    __slots__ = ("name", "type", "missing")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    missing: int
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ..., missing: _Optional[int] = ...) -> None: ...

class Dataset(_message.Message):
    __slots__ = ("id", "alias", "kind", "path", "columns", "rows", "bytes", "digest", "state", "registered_at", "checked_at", "error_code", "error", "runs", "description", "places")
    ID_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_AT_FIELD_NUMBER: _ClassVar[int]
    CHECKED_AT_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    PLACES_FIELD_NUMBER: _ClassVar[int]
    id: str
    alias: str
    kind: str
    path: str
    columns: _containers.RepeatedCompositeFieldContainer[Column]
    rows: int
    bytes: int
    digest: str
    state: str
    registered_at: float
    checked_at: float
    error_code: str
    error: str
    runs: _containers.RepeatedScalarFieldContainer[str]
    description: str
    places: _containers.RepeatedCompositeFieldContainer[NodePlace]
    def __init__(self, id: _Optional[str] = ..., alias: _Optional[str] = ..., kind: _Optional[str] = ..., path: _Optional[str] = ..., columns: _Optional[_Iterable[_Union[Column, _Mapping]]] = ..., rows: _Optional[int] = ..., bytes: _Optional[int] = ..., digest: _Optional[str] = ..., state: _Optional[str] = ..., registered_at: _Optional[float] = ..., checked_at: _Optional[float] = ..., error_code: _Optional[str] = ..., error: _Optional[str] = ..., runs: _Optional[_Iterable[str]] = ..., description: _Optional[str] = ..., places: _Optional[_Iterable[_Union[NodePlace, _Mapping]]] = ...) -> None: ...

class ProbeRequest(_message.Message):
    __slots__ = ("path", "kind")
    PATH_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    path: str
    kind: str
    def __init__(self, path: _Optional[str] = ..., kind: _Optional[str] = ...) -> None: ...

class RegisterDatasetRequest(_message.Message):
    __slots__ = ("alias", "path", "kind", "description", "request_id")
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    alias: str
    path: str
    kind: str
    description: str
    request_id: str
    def __init__(self, alias: _Optional[str] = ..., path: _Optional[str] = ..., kind: _Optional[str] = ..., description: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class RelocateRequest(_message.Message):
    __slots__ = ("id", "path", "request_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    path: str
    request_id: str
    def __init__(self, id: _Optional[str] = ..., path: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class SiloOffer(_message.Message):
    __slots__ = ("id", "federation_id", "offer", "state", "received_at", "signature_verified", "problem_code", "problem", "decided_by", "decided_at", "reason", "conditions_json", "policy")
    ID_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_ID_FIELD_NUMBER: _ClassVar[int]
    OFFER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_AT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_VERIFIED_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_CODE_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    DECIDED_BY_FIELD_NUMBER: _ClassVar[int]
    DECIDED_AT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CONDITIONS_JSON_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    id: str
    federation_id: str
    offer: _envelope_pb2.Offer
    state: str
    received_at: float
    signature_verified: bool
    problem_code: str
    problem: str
    decided_by: str
    decided_at: float
    reason: str
    conditions_json: str
    policy: _containers.RepeatedCompositeFieldContainer[PolicyLine]
    def __init__(self, id: _Optional[str] = ..., federation_id: _Optional[str] = ..., offer: _Optional[_Union[_envelope_pb2.Offer, _Mapping]] = ..., state: _Optional[str] = ..., received_at: _Optional[float] = ..., signature_verified: _Optional[bool] = ..., problem_code: _Optional[str] = ..., problem: _Optional[str] = ..., decided_by: _Optional[str] = ..., decided_at: _Optional[float] = ..., reason: _Optional[str] = ..., conditions_json: _Optional[str] = ..., policy: _Optional[_Iterable[_Union[PolicyLine, _Mapping]]] = ...) -> None: ...

class PolicyLine(_message.Message):
    __slots__ = ("line", "verdict", "why")
    LINE_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    line: str
    verdict: str
    why: str
    def __init__(self, line: _Optional[str] = ..., verdict: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class ReviewReply(_message.Message):
    __slots__ = ("offer", "manifest_toml", "files", "findings", "summary", "previous_digest", "changes", "data", "history", "runtimes", "requirements")
    OFFER_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_TOML_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    RUNTIMES_FIELD_NUMBER: _ClassVar[int]
    REQUIREMENTS_FIELD_NUMBER: _ClassVar[int]
    offer: SiloOffer
    manifest_toml: str
    files: _containers.RepeatedCompositeFieldContainer[FileEntry]
    findings: _containers.RepeatedCompositeFieldContainer[Finding]
    summary: _containers.RepeatedCompositeFieldContainer[SummaryLine]
    previous_digest: str
    changes: _containers.RepeatedCompositeFieldContainer[FileChange]
    data: _containers.RepeatedCompositeFieldContainer[DataMatch]
    history: _containers.RepeatedCompositeFieldContainer[HistoryEntry]
    runtimes: _containers.RepeatedCompositeFieldContainer[RuntimeMatch]
    requirements: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, offer: _Optional[_Union[SiloOffer, _Mapping]] = ..., manifest_toml: _Optional[str] = ..., files: _Optional[_Iterable[_Union[FileEntry, _Mapping]]] = ..., findings: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ..., summary: _Optional[_Iterable[_Union[SummaryLine, _Mapping]]] = ..., previous_digest: _Optional[str] = ..., changes: _Optional[_Iterable[_Union[FileChange, _Mapping]]] = ..., data: _Optional[_Iterable[_Union[DataMatch, _Mapping]]] = ..., history: _Optional[_Iterable[_Union[HistoryEntry, _Mapping]]] = ..., runtimes: _Optional[_Iterable[_Union[RuntimeMatch, _Mapping]]] = ..., requirements: _Optional[_Iterable[str]] = ...) -> None: ...

class RuntimeMatch(_message.Message):
    __slots__ = ("runtime_id", "name", "fits", "lacks", "fault")
    RUNTIME_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    FITS_FIELD_NUMBER: _ClassVar[int]
    LACKS_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    runtime_id: str
    name: str
    fits: bool
    lacks: _containers.RepeatedScalarFieldContainer[str]
    fault: str
    def __init__(self, runtime_id: _Optional[str] = ..., name: _Optional[str] = ..., fits: _Optional[bool] = ..., lacks: _Optional[_Iterable[str]] = ..., fault: _Optional[str] = ...) -> None: ...

class FileEntry(_message.Message):
    __slots__ = ("path", "size", "digest")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    path: str
    size: int
    digest: str
    def __init__(self, path: _Optional[str] = ..., size: _Optional[int] = ..., digest: _Optional[str] = ...) -> None: ...

class Finding(_message.Message):
    __slots__ = ("severity", "rule", "path", "line", "text", "advice")
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ADVICE_FIELD_NUMBER: _ClassVar[int]
    severity: str
    rule: str
    path: str
    line: int
    text: str
    advice: str
    def __init__(self, severity: _Optional[str] = ..., rule: _Optional[str] = ..., path: _Optional[str] = ..., line: _Optional[int] = ..., text: _Optional[str] = ..., advice: _Optional[str] = ...) -> None: ...

class SummaryLine(_message.Message):
    __slots__ = ("topic", "text", "verdict", "why")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    topic: str
    text: str
    verdict: str
    why: str
    def __init__(self, topic: _Optional[str] = ..., text: _Optional[str] = ..., verdict: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class FileChange(_message.Message):
    __slots__ = ("path", "change", "unified_diff")
    PATH_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    UNIFIED_DIFF_FIELD_NUMBER: _ClassVar[int]
    path: str
    change: str
    unified_diff: str
    def __init__(self, path: _Optional[str] = ..., change: _Optional[str] = ..., unified_diff: _Optional[str] = ...) -> None: ...

class DataMatch(_message.Message):
    __slots__ = ("need", "dataset_id", "fits", "problem", "columns")
    NEED_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    FITS_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    need: str
    dataset_id: str
    fits: bool
    problem: str
    columns: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, need: _Optional[str] = ..., dataset_id: _Optional[str] = ..., fits: _Optional[bool] = ..., problem: _Optional[str] = ..., columns: _Optional[_Iterable[str]] = ...) -> None: ...

class HistoryEntry(_message.Message):
    __slots__ = ("at", "who", "what", "text", "digest")
    AT_FIELD_NUMBER: _ClassVar[int]
    WHO_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    at: float
    who: str
    what: str
    text: str
    digest: str
    def __init__(self, at: _Optional[float] = ..., who: _Optional[str] = ..., what: _Optional[str] = ..., text: _Optional[str] = ..., digest: _Optional[str] = ...) -> None: ...

class ReadFileRequest(_message.Message):
    __slots__ = ("id", "path")
    ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    id: str
    path: str
    def __init__(self, id: _Optional[str] = ..., path: _Optional[str] = ...) -> None: ...

class ReadFileReply(_message.Message):
    __slots__ = ("content", "binary")
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    BINARY_FIELD_NUMBER: _ClassVar[int]
    content: bytes
    binary: bool
    def __init__(self, content: _Optional[bytes] = ..., binary: _Optional[bool] = ...) -> None: ...

class DecideRequest(_message.Message):
    __slots__ = ("id", "decision", "request_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    decision: _envelope_pb2.Decision
    request_id: str
    def __init__(self, id: _Optional[str] = ..., decision: _Optional[_Union[_envelope_pb2.Decision, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class TryRequest(_message.Message):
    __slots__ = ("id", "datasets", "runtime", "limit_s")
    class DatasetsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    LIMIT_S_FIELD_NUMBER: _ClassVar[int]
    id: str
    datasets: _containers.ScalarMap[str, str]
    runtime: str
    limit_s: float
    def __init__(self, id: _Optional[str] = ..., datasets: _Optional[_Mapping[str, str]] = ..., runtime: _Optional[str] = ..., limit_s: _Optional[float] = ...) -> None: ...

class TryUpdate(_message.Message):
    __slots__ = ("state", "text", "fraction", "memory", "result")
    STATE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    state: str
    text: str
    fraction: float
    memory: int
    result: TryResult
    def __init__(self, state: _Optional[str] = ..., text: _Optional[str] = ..., fraction: _Optional[float] = ..., memory: _Optional[int] = ..., result: _Optional[_Union[TryResult, _Mapping]] = ...) -> None: ...

class TryResult(_message.Message):
    __slots__ = ("seconds", "train_seconds", "examples", "steps", "metrics", "memory", "bytes", "encoding", "layers", "error_code", "error", "spans")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    TRAIN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    seconds: float
    train_seconds: float
    examples: int
    steps: int
    metrics: _containers.ScalarMap[str, float]
    memory: int
    bytes: int
    encoding: str
    layers: _containers.RepeatedCompositeFieldContainer[LayerSummary]
    error_code: str
    error: str
    spans: _containers.RepeatedCompositeFieldContainer[_envelope_pb2.Span]
    def __init__(self, seconds: _Optional[float] = ..., train_seconds: _Optional[float] = ..., examples: _Optional[int] = ..., steps: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ..., memory: _Optional[int] = ..., bytes: _Optional[int] = ..., encoding: _Optional[str] = ..., layers: _Optional[_Iterable[_Union[LayerSummary, _Mapping]]] = ..., error_code: _Optional[str] = ..., error: _Optional[str] = ..., spans: _Optional[_Iterable[_Union[_envelope_pb2.Span, _Mapping]]] = ...) -> None: ...

class NoteRequest(_message.Message):
    __slots__ = ("id", "path", "line", "text", "request_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    path: str
    line: int
    text: str
    request_id: str
    def __init__(self, id: _Optional[str] = ..., path: _Optional[str] = ..., line: _Optional[int] = ..., text: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class Run(_message.Message):
    __slots__ = ("id", "federation_id", "job_name", "job_version", "package_digest", "state", "reason", "code", "round", "rounds", "fraction", "eta_s", "approved_at", "started_at", "ended_at", "updated_at", "bytes_in", "bytes_out", "metrics", "silos", "silos_present", "workers", "datasets", "approved_by", "conditions_json", "carrier", "encoding", "bytes_resumed", "latency_ms", "link", "best_round", "best_value", "queue")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_NAME_FIELD_NUMBER: _ClassVar[int]
    JOB_VERSION_FIELD_NUMBER: _ClassVar[int]
    PACKAGE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    ETA_S_FIELD_NUMBER: _ClassVar[int]
    APPROVED_AT_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    BYTES_IN_FIELD_NUMBER: _ClassVar[int]
    BYTES_OUT_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    SILOS_FIELD_NUMBER: _ClassVar[int]
    SILOS_PRESENT_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    APPROVED_BY_FIELD_NUMBER: _ClassVar[int]
    CONDITIONS_JSON_FIELD_NUMBER: _ClassVar[int]
    CARRIER_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    BYTES_RESUMED_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    BEST_ROUND_FIELD_NUMBER: _ClassVar[int]
    BEST_VALUE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    id: str
    federation_id: str
    job_name: str
    job_version: str
    package_digest: str
    state: str
    reason: str
    code: str
    round: int
    rounds: int
    fraction: float
    eta_s: float
    approved_at: float
    started_at: float
    ended_at: float
    updated_at: float
    bytes_in: int
    bytes_out: int
    metrics: _containers.ScalarMap[str, float]
    silos: _containers.RepeatedScalarFieldContainer[str]
    silos_present: _containers.RepeatedScalarFieldContainer[str]
    workers: int
    datasets: _containers.RepeatedScalarFieldContainer[str]
    approved_by: str
    conditions_json: str
    carrier: str
    encoding: str
    bytes_resumed: int
    latency_ms: float
    link: str
    best_round: int
    best_value: float
    queue: str
    def __init__(self, id: _Optional[str] = ..., federation_id: _Optional[str] = ..., job_name: _Optional[str] = ..., job_version: _Optional[str] = ..., package_digest: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., code: _Optional[str] = ..., round: _Optional[int] = ..., rounds: _Optional[int] = ..., fraction: _Optional[float] = ..., eta_s: _Optional[float] = ..., approved_at: _Optional[float] = ..., started_at: _Optional[float] = ..., ended_at: _Optional[float] = ..., updated_at: _Optional[float] = ..., bytes_in: _Optional[int] = ..., bytes_out: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ..., silos: _Optional[_Iterable[str]] = ..., silos_present: _Optional[_Iterable[str]] = ..., workers: _Optional[int] = ..., datasets: _Optional[_Iterable[str]] = ..., approved_by: _Optional[str] = ..., conditions_json: _Optional[str] = ..., carrier: _Optional[str] = ..., encoding: _Optional[str] = ..., bytes_resumed: _Optional[int] = ..., latency_ms: _Optional[float] = ..., link: _Optional[str] = ..., best_round: _Optional[int] = ..., best_value: _Optional[float] = ..., queue: _Optional[str] = ...) -> None: ...

class StopLocalRequest(_message.Message):
    __slots__ = ("id", "reason", "request_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    reason: str
    request_id: str
    def __init__(self, id: _Optional[str] = ..., reason: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class RunRound(_message.Message):
    __slots__ = ("round", "local", "federation", "bytes_out", "bytes_in", "seconds", "model_digest", "model_size", "answered", "missing", "late", "silos")
    class LocalEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class FederationEntry(_message.Message):
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
        value: _envelope_pb2.SiloNumbers
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_envelope_pb2.SiloNumbers, _Mapping]] = ...) -> None: ...
    ROUND_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    BYTES_OUT_FIELD_NUMBER: _ClassVar[int]
    BYTES_IN_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    MODEL_SIZE_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    SILOS_FIELD_NUMBER: _ClassVar[int]
    round: int
    local: _containers.ScalarMap[str, float]
    federation: _containers.ScalarMap[str, float]
    bytes_out: int
    bytes_in: int
    seconds: float
    model_digest: str
    model_size: int
    answered: _containers.RepeatedScalarFieldContainer[str]
    missing: _containers.RepeatedScalarFieldContainer[str]
    late: _containers.RepeatedScalarFieldContainer[str]
    silos: _containers.MessageMap[str, _envelope_pb2.SiloNumbers]
    def __init__(self, round: _Optional[int] = ..., local: _Optional[_Mapping[str, float]] = ..., federation: _Optional[_Mapping[str, float]] = ..., bytes_out: _Optional[int] = ..., bytes_in: _Optional[int] = ..., seconds: _Optional[float] = ..., model_digest: _Optional[str] = ..., model_size: _Optional[int] = ..., answered: _Optional[_Iterable[str]] = ..., missing: _Optional[_Iterable[str]] = ..., late: _Optional[_Iterable[str]] = ..., silos: _Optional[_Mapping[str, _envelope_pb2.SiloNumbers]] = ...) -> None: ...

class Point(_message.Message):
    __slots__ = ("name", "source", "round", "step", "value", "at")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    name: str
    source: str
    round: int
    step: int
    value: float
    at: float
    def __init__(self, name: _Optional[str] = ..., source: _Optional[str] = ..., round: _Optional[int] = ..., step: _Optional[int] = ..., value: _Optional[float] = ..., at: _Optional[float] = ...) -> None: ...

class RoundSpan(_message.Message):
    __slots__ = ("round", "span")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SPAN_FIELD_NUMBER: _ClassVar[int]
    round: int
    span: _envelope_pb2.Span
    def __init__(self, round: _Optional[int] = ..., span: _Optional[_Union[_envelope_pb2.Span, _Mapping]] = ...) -> None: ...

class Left(_message.Message):
    __slots__ = ("at", "round", "kind", "bytes", "digest", "encoding", "recipient", "layers", "carrier")
    AT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    RECIPIENT_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    CARRIER_FIELD_NUMBER: _ClassVar[int]
    at: float
    round: int
    kind: str
    bytes: int
    digest: str
    encoding: str
    recipient: str
    layers: _containers.RepeatedCompositeFieldContainer[LayerSummary]
    carrier: str
    def __init__(self, at: _Optional[float] = ..., round: _Optional[int] = ..., kind: _Optional[str] = ..., bytes: _Optional[int] = ..., digest: _Optional[str] = ..., encoding: _Optional[str] = ..., recipient: _Optional[str] = ..., layers: _Optional[_Iterable[_Union[LayerSummary, _Mapping]]] = ..., carrier: _Optional[str] = ...) -> None: ...

class LayerSummary(_message.Message):
    __slots__ = ("name", "shape", "norm", "elements")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    NORM_FIELD_NUMBER: _ClassVar[int]
    ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    shape: str
    norm: float
    elements: int
    def __init__(self, name: _Optional[str] = ..., shape: _Optional[str] = ..., norm: _Optional[float] = ..., elements: _Optional[int] = ...) -> None: ...

class RunDetail(_message.Message):
    __slots__ = ("run", "rounds", "points", "spans", "left", "config_json")
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    run: Run
    rounds: _containers.RepeatedCompositeFieldContainer[RunRound]
    points: _containers.RepeatedCompositeFieldContainer[Point]
    spans: _containers.RepeatedCompositeFieldContainer[RoundSpan]
    left: _containers.RepeatedCompositeFieldContainer[Left]
    config_json: str
    def __init__(self, run: _Optional[_Union[Run, _Mapping]] = ..., rounds: _Optional[_Iterable[_Union[RunRound, _Mapping]]] = ..., points: _Optional[_Iterable[_Union[Point, _Mapping]]] = ..., spans: _Optional[_Iterable[_Union[RoundSpan, _Mapping]]] = ..., left: _Optional[_Iterable[_Union[Left, _Mapping]]] = ..., config_json: _Optional[str] = ...) -> None: ...

class RunUpdate(_message.Message):
    __slots__ = ("run", "rounds", "points", "spans", "left")
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    run: Run
    rounds: _containers.RepeatedCompositeFieldContainer[RunRound]
    points: _containers.RepeatedCompositeFieldContainer[Point]
    spans: _containers.RepeatedCompositeFieldContainer[RoundSpan]
    left: _containers.RepeatedCompositeFieldContainer[Left]
    def __init__(self, run: _Optional[_Union[Run, _Mapping]] = ..., rounds: _Optional[_Iterable[_Union[RunRound, _Mapping]]] = ..., points: _Optional[_Iterable[_Union[Point, _Mapping]]] = ..., spans: _Optional[_Iterable[_Union[RoundSpan, _Mapping]]] = ..., left: _Optional[_Iterable[_Union[Left, _Mapping]]] = ...) -> None: ...

class ExportRequest(_message.Message):
    __slots__ = ("id", "round", "path", "request_id", "personal")
    ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PERSONAL_FIELD_NUMBER: _ClassVar[int]
    id: str
    round: int
    path: str
    request_id: str
    personal: bool
    def __init__(self, id: _Optional[str] = ..., round: _Optional[int] = ..., path: _Optional[str] = ..., request_id: _Optional[str] = ..., personal: _Optional[bool] = ...) -> None: ...

class Policy(_message.Message):
    __slots__ = ("id", "name", "enabled", "rule_json", "created_at", "created_by", "statement", "signature", "approver_key")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    RULE_JSON_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    CREATED_BY_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    APPROVER_KEY_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    enabled: bool
    rule_json: str
    created_at: float
    created_by: str
    statement: bytes
    signature: bytes
    approver_key: bytes
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., enabled: _Optional[bool] = ..., rule_json: _Optional[str] = ..., created_at: _Optional[float] = ..., created_by: _Optional[str] = ..., statement: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., approver_key: _Optional[bytes] = ...) -> None: ...

class PolicyList(_message.Message):
    __slots__ = ("policies",)
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    policies: _containers.RepeatedCompositeFieldContainer[Policy]
    def __init__(self, policies: _Optional[_Iterable[_Union[Policy, _Mapping]]] = ...) -> None: ...

class PutPolicyRequest(_message.Message):
    __slots__ = ("policy", "request_id")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    policy: Policy
    request_id: str
    def __init__(self, policy: _Optional[_Union[Policy, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class AuditEntry(_message.Message):
    __slots__ = ("seq", "at", "actor", "action", "subject", "detail_json", "hash")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    DETAIL_JSON_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    seq: int
    at: float
    actor: str
    action: str
    subject: str
    detail_json: str
    hash: bytes
    def __init__(self, seq: _Optional[int] = ..., at: _Optional[float] = ..., actor: _Optional[str] = ..., action: _Optional[str] = ..., subject: _Optional[str] = ..., detail_json: _Optional[str] = ..., hash: _Optional[bytes] = ...) -> None: ...

class AuditPageRequest(_message.Message):
    __slots__ = ("before", "limit", "action", "text", "run_id")
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    before: int
    limit: int
    action: str
    text: str
    run_id: str
    def __init__(self, before: _Optional[int] = ..., limit: _Optional[int] = ..., action: _Optional[str] = ..., text: _Optional[str] = ..., run_id: _Optional[str] = ...) -> None: ...

class AuditPageReply(_message.Message):
    __slots__ = ("entries", "total")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[AuditEntry]
    total: int
    def __init__(self, entries: _Optional[_Iterable[_Union[AuditEntry, _Mapping]]] = ..., total: _Optional[int] = ...) -> None: ...

class VerifyReply(_message.Message):
    __slots__ = ("whole", "entries", "first_bad", "why", "head")
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    FIRST_BAD_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    whole: bool
    entries: int
    first_bad: int
    why: str
    head: bytes
    def __init__(self, whole: _Optional[bool] = ..., entries: _Optional[int] = ..., first_bad: _Optional[int] = ..., why: _Optional[str] = ..., head: _Optional[bytes] = ...) -> None: ...

class LogLine(_message.Message):
    __slots__ = ("seq", "at", "level", "source", "run_id", "text")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    seq: int
    at: float
    level: str
    source: str
    run_id: str
    text: str
    def __init__(self, seq: _Optional[int] = ..., at: _Optional[float] = ..., level: _Optional[str] = ..., source: _Optional[str] = ..., run_id: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class LogPageRequest(_message.Message):
    __slots__ = ("before", "limit", "level", "run_id", "text")
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    before: int
    limit: int
    level: str
    run_id: str
    text: str
    def __init__(self, before: _Optional[int] = ..., limit: _Optional[int] = ..., level: _Optional[str] = ..., run_id: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class LogPageReply(_message.Message):
    __slots__ = ("lines", "total")
    LINES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedCompositeFieldContainer[LogLine]
    total: int
    def __init__(self, lines: _Optional[_Iterable[_Union[LogLine, _Mapping]]] = ..., total: _Optional[int] = ...) -> None: ...
