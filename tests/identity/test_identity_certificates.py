"""Certificates do over a real mutual-TLS gRPC port what the federation relies on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from cryptography import x509

from octopus_desktop.identity import certificates, invitations, member
from octopus_desktop.identity.authority import Authority, check_address, read_peer
from octopus_desktop.identity.keys import SigningKey, verify
from octopus_desktop.wire.errors import UserError

IDENTITY = "/probe/WhoAmI"


class _WhoAmI(grpc.GenericRpcHandler):
    """Answers with the caller's role and name, as its certificate says."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        def answer(_: bytes, context: grpc.ServicerContext) -> bytes:
            peer = read_peer(context.auth_context()["x509_pem_cert"][0])
            return f"{peer.role}/{peer.name}".encode()

        return grpc.unary_unary_rpc_method_handler(answer) if details.method == IDENTITY else None


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("Heart Alliance")


@pytest.fixture(scope="module")
def port(authority: Authority) -> Iterator[int]:
    key, certificate = authority.issue_server(["fed.example.org"])
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers([_WhoAmI()])
    credentials = grpc.ssl_server_credentials([(key, certificate)], authority.ca_pem, require_client_auth=True)
    number = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield number
    server.stop(None).wait()


def who_am_i(address: str, ca_pem: bytes, key: bytes, chain: bytes, **options: str) -> str:
    credentials = grpc.ssl_channel_credentials(ca_pem, key, chain)
    with grpc.secure_channel(address, credentials, options=list(options.items())) as channel:
        return channel.unary_unary(IDENTITY)(b"", timeout=5).decode()


def enrolled(authority: Authority, name: str, role: str = "silo") -> tuple[bytes, bytes]:
    key, csr = member.make_request(name)
    return key, certificates.to_pem(authority.issue(csr, name, role))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_member_is_known_by_name_and_role_over_tls(authority: Authority, port: int, host: str) -> None:
    assert who_am_i(f"{host}:{port}", authority.ca_pem, *enrolled(authority, "cleveland")) == "silo/cleveland"


def test_the_server_is_good_for_its_own_host_and_for_no_other(authority: Authority, port: int) -> None:
    identity = enrolled(authority, "dr-lin", "author")
    named = {"grpc.ssl_target_name_override": "fed.example.org"}
    assert who_am_i(f"127.0.0.1:{port}", authority.ca_pem, *identity, **named) == "author/dr-lin"
    with pytest.raises(grpc.RpcError):
        who_am_i(f"127.0.0.1:{port}", authority.ca_pem, *identity, **{"grpc.ssl_target_name_override": "evil.org"})


def test_an_invitation_dials_the_same_port_and_still_does_after_its_expiry(authority: Authority, port: int) -> None:
    for valid_s in (3600.0, -5.0):
        ticket = invitations.decode(invitations.encode(authority.invite(f"127.0.0.1:{port}", valid_s=valid_s)))
        ca = certificates.to_pem(ticket.ca_der)
        assert who_am_i(ticket.server, ca, *invitations.tls_identity(ticket)) == f"invitation/{ticket.id}"


def test_members_of_another_federation_are_refused_and_so_is_a_foreign_server(authority: Authority, port: int) -> None:
    stranger = Authority.create("Heart Alliance")
    with pytest.raises(grpc.RpcError):
        who_am_i(f"127.0.0.1:{port}", authority.ca_pem, *enrolled(stranger, "cleveland"))
    with pytest.raises(grpc.RpcError):
        who_am_i(f"127.0.0.1:{port}", stranger.ca_pem, *enrolled(authority, "cleveland"))


def test_an_authority_comes_back_from_its_two_files(authority: Authority) -> None:
    again = Authority.load(authority.ca_pem, authority.key_pem)
    assert (again.federation, again.fingerprint) == ("Heart Alliance", authority.fingerprint)
    with pytest.raises(ValueError, match="does not fit"):
        Authority.load(Authority.create("Other").ca_pem, authority.key_pem)


def test_a_member_accepts_only_a_certificate_of_the_ca_for_its_own_key(authority: Authority) -> None:
    key, csr = member.make_request("hungary")
    certificate = authority.issue(csr, "hungary", "silo", 100)
    peer = member.accept_certificate(certificate, authority.ca_der, key)
    assert (peer.name, peer.role) == ("hungary", "silo")
    other_key, _ = member.make_request("hungary")
    for arguments in (
        (certificate, Authority.create("Heart Alliance").ca_der, key),
        (certificate, authority.ca_der, other_key),
        (b"no certificate", authority.ca_der, key),
    ):
        with pytest.raises(UserError) as refused:
            member.accept_certificate(*arguments)
        assert refused.value.code == "OCT-ENROL-CA"
    with pytest.raises(UserError) as late:
        member.accept_certificate(certificate, authority.ca_der, key, now=peer.not_after + 1)
    assert late.value.code == "OCT-CERT-EXPIRED"


def test_a_renewal_keeps_the_key(authority: Authority) -> None:
    key, _ = member.make_request("hungary")
    renewed = authority.issue(member.renew_request(key, "hungary"), "hungary", "silo")
    assert member.accept_certificate(renewed, authority.ca_der, key).name == "hungary"


def test_a_repeated_request_is_the_same_to_the_byte() -> None:
    key, csr = member.make_request("hungary")
    assert member.renew_request(key, "hungary") == csr


@pytest.mark.parametrize("name", ["", "UPPER", "a b", "-a", "a-", "x" * 64, "ü", "server", "a/b", "a\n"])
def test_a_bad_name_is_refused(authority: Authority, name: str) -> None:
    with pytest.raises(UserError) as refused:
        authority.issue(member.make_request("fine")[1], name, "silo")
    assert refused.value.code == "OCT-ENROL-NAME"


def test_a_request_that_is_damaged_or_signed_by_another_key_is_refused(authority: Authority) -> None:
    csr = bytearray(member.make_request("fine")[1])
    csr[-3] ^= 1
    for bad in (bytes(csr), b"", b"\x30\x03\x02\x01\x01"):
        with pytest.raises(UserError) as refused:
            authority.issue(bad, "fine", "silo")
        assert refused.value.code == "OCT-SIGN-BAD"


def test_nobody_is_made_a_server_by_request_nor_invited_as_one(authority: Authority) -> None:
    with pytest.raises(ValueError, match="server"):
        authority.issue(member.make_request("fine")[1], "fine", "server")
    with pytest.raises(UserError, match="invited as 'server'"):
        authority.invite("host:1", role="server")


@pytest.mark.parametrize("name", ["", "   ", "x" * 65, "a\nb"])
def test_a_federation_needs_a_usable_name(name: str) -> None:
    with pytest.raises(UserError) as refused:
        Authority.create(name)
    assert refused.value.code == "OCT-CONFIG-INVALID"


@pytest.mark.parametrize(
    "address", ["", "host", "host:", "host:0", "host:65536", ":80", "a b:80", "::1:80", "[zz]:80:"]
)
def test_an_address_is_host_and_port(address: str) -> None:
    with pytest.raises(UserError) as refused:
        check_address(address)
    assert refused.value.code == "OCT-CONFIG-INVALID"


def test_addresses_come_apart() -> None:
    assert check_address("fl.example.org:7450") == ("fl.example.org", 7450)
    assert check_address("[2001:db8::7]:7450") == ("2001:db8::7", 7450)


def test_a_server_certificate_names_hosts_and_addresses(authority: Authority) -> None:
    _, pem = authority.issue_server(["192.0.2.7", "2001:db8::7", "bücher.example"])
    names = certificates.load(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"xn--bcher-kva.example", "localhost"}
    found = {str(a) for a in names.get_values_for_type(x509.IPAddress)}
    assert found == {"192.0.2.7", "2001:db8::7", "127.0.0.1"}
    with pytest.raises(UserError) as refused:
        authority.issue_server(["ü" * 300])
    assert refused.value.code == "OCT-CONFIG-INVALID"


def test_keys_sign_and_never_show_their_secret() -> None:
    key = SigningKey.generate()
    assert verify(key.public, b"data", key.sign(b"data"))
    assert not verify(key.public, b"date", key.sign(b"data"))
    assert not verify(b"short", b"data", key.sign(b"data")) and not verify(key.public, b"data", b"")
    assert SigningKey.from_seed(key.seed()).public == key.public
    assert key.seed().hex() not in repr(key)
