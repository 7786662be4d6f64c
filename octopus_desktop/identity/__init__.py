"""Who is who: keys, certificates, enrolment, signatures, and where secrets are kept.

Contract:

``keys.py`` — ``SigningKey`` (Ed25519): ``.generate()``, ``.from_seed(bytes32)``, ``.seed()``, ``.public: bytes`` (raw
32), ``.sign(data) -> bytes``; ``verify(public: bytes, data: bytes, signature: bytes) -> bool``.

``envelopes.py`` — ``signing_bytes(Envelope) -> bytes``; ``sign(Envelope, SigningKey) -> None`` (fills nonce and
signature in place); ``check(Envelope, public: bytes) -> None`` raises OCT-LINK-ENVELOPE.

``certificates.py`` — what authority and member share: X.509 built and read; ``check_name``; ``verify_issued(cert, ca)
-> Peer``.

``authority.py`` — the federation's CA (ECDSA P-256, X.509 v3): ``Authority.create(federation)``, ``.load(pem, pem)``,
``.issue(csr_der, name, role, valid_s) -> bytes DER``, ``.issue_server(hosts) -> (key_pem, cert_pem)``,
``.invite(address, role, valid_s) -> pb Invitation``; ``read_peer(cert DER or PEM) -> Peer(name, role, serial,
not_after, fingerprint)``. Roles: server | silo | author | invitation, and node, which a silo's own CA gives to
its further machines (``roles=(NODE,)``). The role is the subject's OU, the name its CN.

``member.py`` — the other side: ``make_request(name) -> (key_pem, csr_der)``; ``renew_request(key_pem, name)``;
``enrol_request(csr_der, name, key, organisation, contact) -> pb EnrolRequest``; ``accept_certificate(cert_der, ca_der,
key_pem) -> Peer`` (OCT-ENROL-CA, OCT-CERT-EXPIRED).

``invitations.py`` — ``encode(pb Invitation) -> str`` and ``decode(text) -> pb Invitation`` (accepts the bare text, an
``octopus://enrol/…`` link, or the text of an invitation file; OCT-ENROL-INVALID with the reason);
``check_current(Invitation)`` (OCT-ENROL-EXPIRED); ``tls_identity(Invitation) -> (key_pem, cert_pem)`` to dial with;
``to_link`` and ``to_file_text``.

``secrets.py`` — ``open_store(directory, *, passphrase=None, choice=None) -> SecretStore`` with ``.kind`` (keyring |
systemd credential | passphrase file), ``.get(name) -> bytes | None``, ``.set(name, bytes)``, ``.delete(name)``. The OS
keyring counts only after a write-read-delete probe. The passphrase comes from the caller, from the file named by
OCTOPUS_PASSPHRASE_FILE, or from a prompt of the caller's; scrypt and AES-256-GCM seal the file (0600).
``approver_key(store, name) -> SigningKey`` makes or loads the approver's own key.
"""
