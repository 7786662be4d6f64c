"""The MQTT carrier against the contract, through a real mosquitto with TLS, users and rights."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from tests.communication.brokers import MqttWiring, mqtt_wiring
from tests.communication.remote import RemoteConformance


class TestMqtt(RemoteConformance):
    def wiring(self, tmp_path: Path, **options: Any) -> AbstractAsyncContextManager[MqttWiring]:
        return mqtt_wiring(tmp_path, **options)
