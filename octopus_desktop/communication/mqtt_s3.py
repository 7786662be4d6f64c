"""The MQTT+S3 carrier: the message link over a broker, with blobs through an object store. Thin; the wire is MQTT's,
and what happens in the bucket is ``store_way`` and its parts.
"""

from __future__ import annotations

import asyncio
from typing import Any

from octopus_desktop.communication.contract import SERVER, MailOwner
from octopus_desktop.communication.mqtt import MqttServerEnd, MqttSiloEnd
from octopus_desktop.communication.mqtt_wire import federation_level
from octopus_desktop.communication.object_notes import Sent
from octopus_desktop.communication.object_store import Access
from octopus_desktop.communication.parties import ServerParty, Session, SiloParty
from octopus_desktop.communication.settings import MqttS3Offer, OwnSide, Secrets
from octopus_desktop.communication.store_desk import MadeObjects, StoreDesk
from octopus_desktop.communication.store_intake import Intake
from octopus_desktop.communication.store_keeper import Keeper
from octopus_desktop.communication.store_way import StoreWay


class MqttS3SiloEnd(MqttSiloEnd):
    """The silo's end. ``own.store_key_id`` and ``secrets.store_secret``: credentials of the silo's own at the store;
    without them the server signs each URL. ``own.proxy`` and ``own.ca_file`` hold for the store too."""

    def __init__(
        self, *, offer: MqttS3Offer, own: OwnSide, secrets: Secrets, party: SiloParty, owner: MailOwner, **options: Any
    ) -> None:
        super().__init__(
            offer=offer, own=own, secrets=secrets, party=party, owner=owner, blob_way=self._make_way, **options
        )
        access = _access(offer, own.store_key_id, secrets, ca_file=own.ca_file, proxy=own.proxy)
        self._open_desk = lambda: _desk(offer, access, owner, party.federation)
        self._desk: StoreDesk | None = None
        self._made: MadeObjects | None = None

    async def run(self) -> None:
        self._desk = self._open_desk()
        self._made = MadeObjects(self._desk, kind="own-") if self._desk.store else None
        _forget_delivered(self._desk, self._made)
        try:
            await super().run()
        finally:
            await self._desk.close()

    def _make_way(self, session: Session) -> StoreWay:
        assert self._desk is not None
        return StoreWay(session, self._desk, made=self._made)


class MqttS3ServerEnd(MqttServerEnd):
    """The server's end. ``store_key_id`` and ``secrets.store_secret``: its credentials at the store; it needs to read,
    write, delete and list below the offer's prefix (``resources/brokers/s3``)."""

    def __init__(
        self,
        *,
        offer: MqttS3Offer,
        username: str,
        store_key_id: str,
        secrets: Secrets,
        party: ServerParty,
        owner: MailOwner,
        **options: Any,
    ) -> None:
        super().__init__(
            offer=offer,
            username=username,
            secrets=secrets,
            party=party,
            owner=owner,
            blob_way=self._make_way,
            **options,
        )
        access = _access(offer, store_key_id, secrets)
        self._open_desk = lambda: _desk(offer, access, owner, party.federation)
        self._linger_s = offer.url_s
        self._desk: StoreDesk | None = None
        self._made: MadeObjects | None = None
        self._intake: Intake | None = None
        self._bucket_keeper: Keeper | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """See ``ServerEnd``. A store that is away keeps nobody from starting: blobs wait for it, mail does not."""
        self._desk = self._open_desk()
        self._made, self._intake = MadeObjects(self._desk), Intake(self._desk)
        self._bucket_keeper = Keeper(self._desk, self._made, self._intake, linger_s=self._linger_s)
        self._keeping = asyncio.create_task(self._bucket_keeper.run())
        await super().start()

    async def stop(self, grace_s: float) -> None:
        await super().stop(grace_s)
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait((self._keeping,))
        if self._desk is not None:
            await self._desk.close()

    def outbox_changed(self, peer: str) -> None:
        super().outbox_changed(peer)
        if self._bucket_keeper is not None:
            self._bucket_keeper.changed()

    def _make_way(self, session: Session) -> StoreWay:
        assert self._desk is not None
        return StoreWay(session, self._desk, made=self._made, intake=self._intake, keeper=self._bucket_keeper)


def _forget_delivered(desk: StoreDesk, made: MadeObjects | None) -> None:
    """Forget uploads whose envelopes wait no more: a crash came between their receipts and the notes' end."""
    waiting = {ref.digest for envelope in desk.owner.pending(SERVER) for ref in envelope.blobs}
    for sent in list(desk.notes.all(Sent)):
        if sent.digest not in waiting:
            desk.notes.drop(sent)
    if made is not None:
        for own in made.idle(inherited=True):
            if own.digest not in waiting:
                made.forget(own)


def _access(offer: MqttS3Offer, key_id: str, secrets: Secrets, *, ca_file: str = "", proxy: str = "") -> Access:
    return Access(
        endpoint=offer.endpoint,
        bucket=offer.bucket,
        region=offer.region,
        key_id=key_id,
        secret=secrets.store_secret,
        ca_pem=offer.store_ca_pem,
        ca_file=ca_file,
        proxy=proxy,
    )


def _desk(offer: MqttS3Offer, access: Access, owner: MailOwner, federation: str) -> StoreDesk:
    prefix = f"{offer.prefix}{federation_level(federation)}/"
    return StoreDesk(access, owner, prefix=prefix, part_bytes=offer.part_bytes, url_s=offer.url_s)
