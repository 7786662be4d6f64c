"""Carriers against their contract. The package comes first: it settles gRPC's TLS before gRPC is loaded."""

import octopus_desktop as octopus_desktop
