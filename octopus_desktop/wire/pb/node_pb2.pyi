from octopus_desktop.wire.pb import federation_pb2 as _federation_pb2
from octopus_desktop.wire.pb import local_pb2 as _local_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JoinRequest(_message.Message):
    __slots__ = ("csr_der", "protocol", "hello", "machine")
    CSR_DER_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    csr_der: bytes
    protocol: int
    hello: AgentHello
    machine: _local_pb2.Node
    def __init__(self, csr_der: _Optional[bytes] = ..., protocol: _Optional[int] = ..., hello: _Optional[_Union[AgentHello, _Mapping]] = ..., machine: _Optional[_Union[_local_pb2.Node, _Mapping]] = ...) -> None: ...

class JoinReply(_message.Message):
    __slots__ = ("node_id", "name", "certificate_der")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_DER_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    name: str
    certificate_der: bytes
    def __init__(self, node_id: _Optional[str] = ..., name: _Optional[str] = ..., certificate_der: _Optional[bytes] = ...) -> None: ...

class NodeRenewRequest(_message.Message):
    __slots__ = ("csr_der",)
    CSR_DER_FIELD_NUMBER: _ClassVar[int]
    csr_der: bytes
    def __init__(self, csr_der: _Optional[bytes] = ...) -> None: ...

class NodeRenewReply(_message.Message):
    __slots__ = ("certificate_der",)
    CERTIFICATE_DER_FIELD_NUMBER: _ClassVar[int]
    certificate_der: bytes
    def __init__(self, certificate_der: _Optional[bytes] = ...) -> None: ...

class AgentHello(_message.Message):
    __slots__ = ("protocol", "version", "boot_id")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    version: str
    boot_id: str
    def __init__(self, protocol: _Optional[int] = ..., version: _Optional[str] = ..., boot_id: _Optional[str] = ...) -> None: ...

class PortHello(_message.Message):
    __slots__ = ("protocol", "version", "state")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    version: str
    state: str
    def __init__(self, protocol: _Optional[int] = ..., version: _Optional[str] = ..., state: _Optional[str] = ...) -> None: ...

class AgentFrame(_message.Message):
    __slots__ = ("hello", "words", "answer", "machine")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    hello: AgentHello
    words: RunWords
    answer: NodeAnswer
    machine: _local_pb2.Node
    def __init__(self, hello: _Optional[_Union[AgentHello, _Mapping]] = ..., words: _Optional[_Union[RunWords, _Mapping]] = ..., answer: _Optional[_Union[NodeAnswer, _Mapping]] = ..., machine: _Optional[_Union[_local_pb2.Node, _Mapping]] = ...) -> None: ...

class PortFrame(_message.Message):
    __slots__ = ("hello", "heartbeat", "fault", "words", "ask")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    ASK_FIELD_NUMBER: _ClassVar[int]
    hello: PortHello
    heartbeat: _federation_pb2.Heartbeat
    fault: _federation_pb2.Fault
    words: RunWords
    ask: NodeAsk
    def __init__(self, hello: _Optional[_Union[PortHello, _Mapping]] = ..., heartbeat: _Optional[_Union[_federation_pb2.Heartbeat, _Mapping]] = ..., fault: _Optional[_Union[_federation_pb2.Fault, _Mapping]] = ..., words: _Optional[_Union[RunWords, _Mapping]] = ..., ask: _Optional[_Union[NodeAsk, _Mapping]] = ...) -> None: ...

class NodeAsk(_message.Message):
    __slots__ = ("id", "alias", "path", "kind", "digest")
    ID_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    id: str
    alias: str
    path: str
    kind: str
    digest: str
    def __init__(self, id: _Optional[str] = ..., alias: _Optional[str] = ..., path: _Optional[str] = ..., kind: _Optional[str] = ..., digest: _Optional[str] = ...) -> None: ...

class NodeAnswer(_message.Message):
    __slots__ = ("id", "fault", "place")
    ID_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    id: str
    fault: _federation_pb2.Fault
    place: _local_pb2.NodePlace
    def __init__(self, id: _Optional[str] = ..., fault: _Optional[_Union[_federation_pb2.Fault, _Mapping]] = ..., place: _Optional[_Union[_local_pb2.NodePlace, _Mapping]] = ...) -> None: ...

class RunWords(_message.Message):
    __slots__ = ("run_id", "json")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    json: str
    def __init__(self, run_id: _Optional[str] = ..., json: _Optional[str] = ...) -> None: ...

class NodeInvitation(_message.Message):
    __slots__ = ("id", "name", "expires_at", "node_id", "made_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    MADE_AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    expires_at: float
    node_id: str
    made_at: float
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., expires_at: _Optional[float] = ..., node_id: _Optional[str] = ..., made_at: _Optional[float] = ...) -> None: ...

class NodeMember(_message.Message):
    __slots__ = ("id", "serial", "key_der", "certificate_der", "accepted", "drained", "not_after", "former_serial")
    ID_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    KEY_DER_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_DER_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    DRAINED_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    FORMER_SERIAL_FIELD_NUMBER: _ClassVar[int]
    id: str
    serial: str
    key_der: bytes
    certificate_der: bytes
    accepted: bool
    drained: bool
    not_after: float
    former_serial: str
    def __init__(self, id: _Optional[str] = ..., serial: _Optional[str] = ..., key_der: _Optional[bytes] = ..., certificate_der: _Optional[bytes] = ..., accepted: _Optional[bool] = ..., drained: _Optional[bool] = ..., not_after: _Optional[float] = ..., former_serial: _Optional[str] = ...) -> None: ...
