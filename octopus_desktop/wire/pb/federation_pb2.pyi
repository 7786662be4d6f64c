from octopus_desktop.wire.pb import envelope_pb2 as _envelope_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Invitation(_message.Message):
    __slots__ = ("federation", "server", "ca_der", "id", "key_seed", "certificate_der", "expires_at", "role")
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    CA_DER_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    KEY_SEED_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_DER_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    federation: str
    server: str
    ca_der: bytes
    id: str
    key_seed: bytes
    certificate_der: bytes
    expires_at: float
    role: str
    def __init__(self, federation: _Optional[str] = ..., server: _Optional[str] = ..., ca_der: _Optional[bytes] = ..., id: _Optional[str] = ..., key_seed: _Optional[bytes] = ..., certificate_der: _Optional[bytes] = ..., expires_at: _Optional[float] = ..., role: _Optional[str] = ...) -> None: ...

class EnrolRequest(_message.Message):
    __slots__ = ("csr_der", "name", "organisation", "contact", "signing_key", "proof")
    CSR_DER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ORGANISATION_FIELD_NUMBER: _ClassVar[int]
    CONTACT_FIELD_NUMBER: _ClassVar[int]
    SIGNING_KEY_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    csr_der: bytes
    name: str
    organisation: str
    contact: str
    signing_key: bytes
    proof: bytes
    def __init__(self, csr_der: _Optional[bytes] = ..., name: _Optional[str] = ..., organisation: _Optional[str] = ..., contact: _Optional[str] = ..., signing_key: _Optional[bytes] = ..., proof: _Optional[bytes] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("csr_der",)
    CSR_DER_FIELD_NUMBER: _ClassVar[int]
    csr_der: bytes
    def __init__(self, csr_der: _Optional[bytes] = ...) -> None: ...

class EnrolReply(_message.Message):
    __slots__ = ("certificate_der", "ca_der", "name", "federation", "server_signing_key", "expires_at", "carriers")
    CERTIFICATE_DER_FIELD_NUMBER: _ClassVar[int]
    CA_DER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    SERVER_SIGNING_KEY_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    CARRIERS_FIELD_NUMBER: _ClassVar[int]
    certificate_der: bytes
    ca_der: bytes
    name: str
    federation: str
    server_signing_key: bytes
    expires_at: float
    carriers: _containers.RepeatedCompositeFieldContainer[CarrierOffer]
    def __init__(self, certificate_der: _Optional[bytes] = ..., ca_der: _Optional[bytes] = ..., name: _Optional[str] = ..., federation: _Optional[str] = ..., server_signing_key: _Optional[bytes] = ..., expires_at: _Optional[float] = ..., carriers: _Optional[_Iterable[_Union[CarrierOffer, _Mapping]]] = ...) -> None: ...

class CarrierOffer(_message.Message):
    __slots__ = ("name", "settings_json")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_JSON_FIELD_NUMBER: _ClassVar[int]
    name: str
    settings_json: str
    def __init__(self, name: _Optional[str] = ..., settings_json: _Optional[str] = ...) -> None: ...

class EnrolRequestFile(_message.Message):
    __slots__ = ("request", "invitation_id", "invitation_certificate_der", "invitation_signature")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    INVITATION_ID_FIELD_NUMBER: _ClassVar[int]
    INVITATION_CERTIFICATE_DER_FIELD_NUMBER: _ClassVar[int]
    INVITATION_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    request: EnrolRequest
    invitation_id: str
    invitation_certificate_der: bytes
    invitation_signature: bytes
    def __init__(self, request: _Optional[_Union[EnrolRequest, _Mapping]] = ..., invitation_id: _Optional[str] = ..., invitation_certificate_der: _Optional[bytes] = ..., invitation_signature: _Optional[bytes] = ...) -> None: ...

class EnrolReplyFile(_message.Message):
    __slots__ = ("reply", "signature")
    REPLY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    reply: bytes
    signature: bytes
    def __init__(self, reply: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("hello", "envelope", "receipt", "heartbeat", "fault")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    envelope: _envelope_pb2.Envelope
    receipt: Receipt
    heartbeat: Heartbeat
    fault: Fault
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., envelope: _Optional[_Union[_envelope_pb2.Envelope, _Mapping]] = ..., receipt: _Optional[_Union[Receipt, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., fault: _Optional[_Union[Fault, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "name", "boot_id", "version", "runs", "carriers")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    CARRIERS_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    name: str
    boot_id: str
    version: str
    runs: _containers.RepeatedScalarFieldContainer[str]
    carriers: _containers.RepeatedCompositeFieldContainer[CarrierOffer]
    def __init__(self, protocol: _Optional[int] = ..., name: _Optional[str] = ..., boot_id: _Optional[str] = ..., version: _Optional[str] = ..., runs: _Optional[_Iterable[str]] = ..., carriers: _Optional[_Iterable[_Union[CarrierOffer, _Mapping]]] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("id", "duplicate", "error_code", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: str
    duplicate: bool
    error_code: str
    error: str
    def __init__(self, id: _Optional[str] = ..., duplicate: _Optional[bool] = ..., error_code: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("at", "echo", "clock")
    AT_FIELD_NUMBER: _ClassVar[int]
    ECHO_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    at: float
    echo: float
    clock: float
    def __init__(self, at: _Optional[float] = ..., echo: _Optional[float] = ..., clock: _Optional[float] = ...) -> None: ...

class Fault(_message.Message):
    __slots__ = ("code", "what", "why", "next_step")
    CODE_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    NEXT_STEP_FIELD_NUMBER: _ClassVar[int]
    code: str
    what: str
    why: str
    next_step: str
    def __init__(self, code: _Optional[str] = ..., what: _Optional[str] = ..., why: _Optional[str] = ..., next_step: _Optional[str] = ...) -> None: ...

class HaveRequest(_message.Message):
    __slots__ = ("blobs", "run_id")
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    blobs: _containers.RepeatedCompositeFieldContainer[_envelope_pb2.BlobRef]
    run_id: str
    def __init__(self, blobs: _Optional[_Iterable[_Union[_envelope_pb2.BlobRef, _Mapping]]] = ..., run_id: _Optional[str] = ...) -> None: ...

class HaveReply(_message.Message):
    __slots__ = ("offsets",)
    OFFSETS_FIELD_NUMBER: _ClassVar[int]
    offsets: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, offsets: _Optional[_Iterable[int]] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("blob", "offset", "data", "run_id")
    BLOB_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    blob: _envelope_pb2.BlobRef
    offset: int
    data: bytes
    run_id: str
    def __init__(self, blob: _Optional[_Union[_envelope_pb2.BlobRef, _Mapping]] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ..., run_id: _Optional[str] = ...) -> None: ...

class PutReply(_message.Message):
    __slots__ = ("size",)
    SIZE_FIELD_NUMBER: _ClassVar[int]
    size: int
    def __init__(self, size: _Optional[int] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("blob", "offset", "run_id")
    BLOB_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    blob: _envelope_pb2.BlobRef
    offset: int
    run_id: str
    def __init__(self, blob: _Optional[_Union[_envelope_pb2.BlobRef, _Mapping]] = ..., offset: _Optional[int] = ..., run_id: _Optional[str] = ...) -> None: ...

class JobsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class JobsReply(_message.Message):
    __slots__ = ("jobs",)
    JOBS_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[JobInfo]
    def __init__(self, jobs: _Optional[_Iterable[_Union[JobInfo, _Mapping]]] = ...) -> None: ...

class JobInfo(_message.Message):
    __slots__ = ("digest", "name", "version", "author", "author_fingerprint", "submitted_at", "size", "purpose")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SUBMITTED_AT_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    digest: str
    name: str
    version: str
    author: str
    author_fingerprint: str
    submitted_at: float
    size: int
    purpose: str
    def __init__(self, digest: _Optional[str] = ..., name: _Optional[str] = ..., version: _Optional[str] = ..., author: _Optional[str] = ..., author_fingerprint: _Optional[str] = ..., submitted_at: _Optional[float] = ..., size: _Optional[int] = ..., purpose: _Optional[str] = ...) -> None: ...
