"""The daemon's own keys, from the store of secrets: opened when first needed, so that a locked store stops what needs a
key and nothing else. Knows the approver of a policy; a person's key is never here."""

from __future__ import annotations

from octopus_desktop.identity.keys import SigningKey
from octopus_desktop.identity.secrets import SecretStore, open_store, signing_key
from octopus_desktop.system.paths import SiloHome

SILO_KEY = "silo/signing"
POLICY_KEY = "policy/approver"


class SiloKeys:
    """Attributes raise OCT-SECRET-STORE or OCT-SECRET-PASSPHRASE while the store cannot be opened."""

    def __init__(self, home: SiloHome) -> None:
        self._home = home
        self._store: SecretStore | None = None
        self._keys: dict[str, SigningKey] = {}

    @property
    def store(self) -> SecretStore:
        if self._store is None:
            self._store = open_store(self._home.secrets)
        return self._store

    @property
    def kind(self) -> str:
        """Where secrets are kept, or why they are not to be had."""
        from octopus_desktop.wire.errors import UserError

        try:
            return self.store.kind
        except UserError as error:
            return f"locked ({error.code})"

    @property
    def silo(self) -> SigningKey:
        """Signs envelopes and heads of the audit chain."""
        return self._key(SILO_KEY)

    @property
    def policy(self) -> SigningKey:
        """Signs what a policy approves."""
        return self._key(POLICY_KEY)

    def _key(self, name: str) -> SigningKey:
        if name not in self._keys:
            self._keys[name] = signing_key(self.store, name)
        return self._keys[name]
