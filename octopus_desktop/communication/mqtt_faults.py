"""What goes wrong between this side and an MQTT broker, said so that a person can act on it.

Knows reason codes and exceptions, and neither sockets nor mail.
"""

from __future__ import annotations

import socket
import ssl

from octopus_desktop.wire.errors import UserError

# MQTT 5, section 2.4
NO_SUBSCRIBERS = 16
VERSION, CLIENT_ID, PASSWORD, NOT_AUTHORISED, BANNED, METHOD = 132, 133, 134, 135, 138, 140
TAKEN_OVER, TOO_LARGE, NO_RETAIN, NO_QOS = 142, 149, 154, 155

# X509_V_ERR_… of OpenSSL, as in ssl.SSLCertVerificationError.verify_code
_NOT_YET_VALID, _EXPIRED = 9, 10
_UNKNOWN_CA = (2, 18, 19, 20, 21)
_OTHER_NAME = (62, 64)
_NO_TLS = ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")


def down(address: str, why: str, next_step: str = "") -> UserError:
    return UserError(
        "OCT-BROKER-DOWN",
        f"The MQTT broker {address} cannot be reached.",
        why[:300],
        next_step or "Nothing is lost, it is tried again by itself. If it lasts, check broker, network and firewall.",
    )


def unreachable(address: str, error: OSError) -> UserError:
    """What an exception of dialling means, TLS included."""
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ConnectionResetError):
        return down(address, "The connection was closed in the middle of the TLS handshake; or this port has no TLS.")
    if isinstance(error, ssl.SSLError):
        return _tls(address, error)
    if isinstance(error, socket.gaierror):
        return down(address, f"Its name is not known here: {error.strerror}.", "Check the broker's name and the DNS.")
    if isinstance(error, ConnectionRefusedError):
        return down(address, "The connection was refused: nothing listens on this port, or a firewall forbids it.")
    if isinstance(error, TimeoutError):
        return down(address, "It does not answer: no route, or a firewall drops what is sent.")
    return down(address, error.strerror or str(error) or type(error).__name__)


def _tls(address: str, error: ssl.SSLError) -> UserError:
    next_step = "Ask the broker's administrator; until then nothing is sent."
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _OTHER_NAME:
            why = f"Its certificate is for another name: {error.verify_message}"
            next_step = "Use the name that stands in the certificate, or have the broker's certificate renewed."
        elif error.verify_code == _EXPIRED:
            why = "Its certificate is expired, or this machine's clock is wrong."
            next_step = "Check this machine's clock; if it is right, the broker's certificate must be renewed."
        elif error.verify_code == _NOT_YET_VALID:
            why = "Its certificate is not valid yet, or this machine's clock is wrong."
            next_step = "Check this machine's clock."
        elif error.verify_code in _UNKNOWN_CA:
            why = f"Its certificate comes from a CA that is not known here ({error.verify_message})."
            next_step = "Give the broker's CA (the offer's ca_pem, or a CA file of this site for a TLS-reading proxy)."
        else:
            why = f"Its certificate was refused: {error.verify_message}"
    elif error.reason in _NO_TLS:
        why, next_step = "What answers on this port does not speak TLS.", "Check the port, and whether tls is meant."
    else:
        why = f"{error.reason or error}"
    return UserError(
        "OCT-BROKER-TLS", f"The secure connection to the MQTT broker {address} failed.", why[:300], next_step
    )


def refused(address: str, username: str, code: int, words: str) -> UserError:
    """The broker's answer to CONNECT, when it is a no."""
    if code in (PASSWORD, NOT_AUTHORISED, BANNED, METHOD):
        who = f"user {username!r}" if username else "a login without a user name"
        return UserError(
            "OCT-BROKER-LOGIN",
            f"The MQTT broker {address} refused the login.",
            f"It refused {who}: {words}.",
            "Check user name and password with the broker's administrator, and set them again.",
        )
    if code == VERSION:
        return not_mqtt5(address, f"It says: {words}.")
    if code == TOO_LARGE:
        return packet(address, "It refuses even the packet of the login.")
    if code == CLIENT_ID:
        return down(
            address, "It does not accept this side's client id.", "Let it accept ids that begin with 'octopus-'."
        )
    if code in (NO_RETAIN, NO_QOS):
        return not_mqtt5(address, f"It lacks a part of MQTT 5 that is needed: {words}.")
    return down(address, f"It refused the connection: {words}.")


def not_mqtt5(address: str, why: str) -> UserError:
    return UserError(
        "OCT-LINK-PROTOCOL",
        f"The MQTT broker {address} does not speak MQTT 5.",
        why,
        "Use a broker that does, such as mosquitto 2, and that takes QoS 1 and retained messages.",
    )


def ended(address: str, client_id: str, code: int, words: str) -> UserError:
    """The broker's DISCONNECT, and why it was sent."""
    if code == TAKEN_OVER:
        return UserError(
            "OCT-LINK-REPLACED",
            "Another connection took this link's place.",
            f"A second process connected to the MQTT broker {address} as {client_id!r}.",
            "Run only one daemon for this silo; if you did not start another, have the broker's password changed.",
        )
    if code == TOO_LARGE:
        return packet(address, "It closed the connection because of a packet that was too large for it.")
    if code == NOT_AUTHORISED:
        return refused(address, "", code, words)
    return down(address, f"It closed the connection: {words}.")


def topic(address: str, username: str, right: str, name: str, words: str) -> UserError:
    """``right``: "publish to" or "subscribe to"."""
    return UserError(
        "OCT-BROKER-TOPIC",
        f"The MQTT broker {address} does not give a right that is needed.",
        f"User {username!r} may not {right} {name!r} ({words}).",
        "Ask the broker's administrator for it; resources/brokers/mosquitto has an example of all rights.",
    )


def packet(address: str, why: str) -> UserError:
    return UserError(
        "OCT-BROKER-PACKET",
        f"The MQTT broker {address} does not take packets of the size that is needed.",
        why,
        "Raise the broker's limit (mosquitto: max_packet_size), or lower packet_bytes in the federation's offer.",
    )
