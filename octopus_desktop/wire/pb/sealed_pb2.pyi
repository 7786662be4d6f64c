from octopus_desktop.wire.pb import envelope_pb2 as _envelope_pb2
from octopus_desktop.wire.pb import federation_pb2 as _federation_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Opening(_message.Message):
    __slots__ = ("protocol", "federation", "silo", "session", "share", "at", "signature", "unsealed_blobs")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    SILO_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    UNSEALED_BLOBS_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    federation: str
    silo: str
    session: bytes
    share: bytes
    at: float
    signature: bytes
    unsealed_blobs: bool
    def __init__(self, protocol: _Optional[int] = ..., federation: _Optional[str] = ..., silo: _Optional[str] = ..., session: _Optional[bytes] = ..., share: _Optional[bytes] = ..., at: _Optional[float] = ..., signature: _Optional[bytes] = ..., unsealed_blobs: _Optional[bool] = ...) -> None: ...

class Accepting(_message.Message):
    __slots__ = ("session", "share", "signature", "unsealed_blobs", "fault", "at")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    UNSEALED_BLOBS_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    share: bytes
    signature: bytes
    unsealed_blobs: bool
    fault: _federation_pb2.Fault
    at: float
    def __init__(self, session: _Optional[bytes] = ..., share: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., unsealed_blobs: _Optional[bool] = ..., fault: _Optional[_Union[_federation_pb2.Fault, _Mapping]] = ..., at: _Optional[float] = ...) -> None: ...

class Inner(_message.Message):
    __slots__ = ("frame", "ask", "lack", "gained", "object", "parts_wanted", "part_urls", "uploaded", "broken")
    FRAME_FIELD_NUMBER: _ClassVar[int]
    ASK_FIELD_NUMBER: _ClassVar[int]
    LACK_FIELD_NUMBER: _ClassVar[int]
    GAINED_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    PARTS_WANTED_FIELD_NUMBER: _ClassVar[int]
    PART_URLS_FIELD_NUMBER: _ClassVar[int]
    UPLOADED_FIELD_NUMBER: _ClassVar[int]
    BROKEN_FIELD_NUMBER: _ClassVar[int]
    frame: _federation_pb2.Frame
    ask: Ask
    lack: Lack
    gained: Gained
    object: StoredObject
    parts_wanted: PartsWanted
    part_urls: PartUrls
    uploaded: Uploaded
    broken: Broken
    def __init__(self, frame: _Optional[_Union[_federation_pb2.Frame, _Mapping]] = ..., ask: _Optional[_Union[Ask, _Mapping]] = ..., lack: _Optional[_Union[Lack, _Mapping]] = ..., gained: _Optional[_Union[Gained, _Mapping]] = ..., object: _Optional[_Union[StoredObject, _Mapping]] = ..., parts_wanted: _Optional[_Union[PartsWanted, _Mapping]] = ..., part_urls: _Optional[_Union[PartUrls, _Mapping]] = ..., uploaded: _Optional[_Union[Uploaded, _Mapping]] = ..., broken: _Optional[_Union[Broken, _Mapping]] = ...) -> None: ...

class Ask(_message.Message):
    __slots__ = ("transfer", "run_id", "blob")
    TRANSFER_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    transfer: int
    run_id: str
    blob: _envelope_pb2.BlobRef
    def __init__(self, transfer: _Optional[int] = ..., run_id: _Optional[str] = ..., blob: _Optional[_Union[_envelope_pb2.BlobRef, _Mapping]] = ...) -> None: ...

class Lack(_message.Message):
    __slots__ = ("transfer", "offset", "whole")
    TRANSFER_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    transfer: int
    offset: int
    whole: bool
    def __init__(self, transfer: _Optional[int] = ..., offset: _Optional[int] = ..., whole: _Optional[bool] = ...) -> None: ...

class Gained(_message.Message):
    __slots__ = ("transfer", "offset", "whole")
    TRANSFER_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    transfer: int
    offset: int
    whole: bool
    def __init__(self, transfer: _Optional[int] = ..., offset: _Optional[int] = ..., whole: _Optional[bool] = ...) -> None: ...

class Broken(_message.Message):
    __slots__ = ("transfer", "fault", "by_sender")
    TRANSFER_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    BY_SENDER_FIELD_NUMBER: _ClassVar[int]
    transfer: int
    fault: _federation_pb2.Fault
    by_sender: bool
    def __init__(self, transfer: _Optional[int] = ..., fault: _Optional[_Union[_federation_pb2.Fault, _Mapping]] = ..., by_sender: _Optional[bool] = ...) -> None: ...

class StoredObject(_message.Message):
    __slots__ = ("transfer", "run_id", "blob", "object", "stored", "key", "url", "until")
    TRANSFER_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    transfer: int
    run_id: str
    blob: _envelope_pb2.BlobRef
    object: str
    stored: int
    key: bytes
    url: str
    until: float
    def __init__(self, transfer: _Optional[int] = ..., run_id: _Optional[str] = ..., blob: _Optional[_Union[_envelope_pb2.BlobRef, _Mapping]] = ..., object: _Optional[str] = ..., stored: _Optional[int] = ..., key: _Optional[bytes] = ..., url: _Optional[str] = ..., until: _Optional[float] = ...) -> None: ...

class PartsWanted(_message.Message):
    __slots__ = ("transfer", "run_id", "blob", "stored", "part_bytes", "parts", "object")
    TRANSFER_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    PART_BYTES_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    transfer: int
    run_id: str
    blob: _envelope_pb2.BlobRef
    stored: int
    part_bytes: int
    parts: _containers.RepeatedScalarFieldContainer[int]
    object: str
    def __init__(self, transfer: _Optional[int] = ..., run_id: _Optional[str] = ..., blob: _Optional[_Union[_envelope_pb2.BlobRef, _Mapping]] = ..., stored: _Optional[int] = ..., part_bytes: _Optional[int] = ..., parts: _Optional[_Iterable[int]] = ..., object: _Optional[str] = ...) -> None: ...

class PartUrls(_message.Message):
    __slots__ = ("transfer", "object", "urls", "present", "until")
    TRANSFER_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    URLS_FIELD_NUMBER: _ClassVar[int]
    PRESENT_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    transfer: int
    object: str
    urls: _containers.RepeatedCompositeFieldContainer[PartUrl]
    present: _containers.RepeatedScalarFieldContainer[int]
    until: float
    def __init__(self, transfer: _Optional[int] = ..., object: _Optional[str] = ..., urls: _Optional[_Iterable[_Union[PartUrl, _Mapping]]] = ..., present: _Optional[_Iterable[int]] = ..., until: _Optional[float] = ...) -> None: ...

class PartUrl(_message.Message):
    __slots__ = ("part", "url")
    PART_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    part: int
    url: str
    def __init__(self, part: _Optional[int] = ..., url: _Optional[str] = ...) -> None: ...

class Uploaded(_message.Message):
    __slots__ = ("transfer", "run_id", "blob", "object", "stored", "key", "tags")
    TRANSFER_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    transfer: int
    run_id: str
    blob: _envelope_pb2.BlobRef
    object: str
    stored: int
    key: bytes
    tags: _containers.RepeatedCompositeFieldContainer[PartTag]
    def __init__(self, transfer: _Optional[int] = ..., run_id: _Optional[str] = ..., blob: _Optional[_Union[_envelope_pb2.BlobRef, _Mapping]] = ..., object: _Optional[str] = ..., stored: _Optional[int] = ..., key: _Optional[bytes] = ..., tags: _Optional[_Iterable[_Union[PartTag, _Mapping]]] = ...) -> None: ...

class PartTag(_message.Message):
    __slots__ = ("part", "etag")
    PART_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    part: int
    etag: str
    def __init__(self, part: _Optional[int] = ..., etag: _Optional[str] = ...) -> None: ...
