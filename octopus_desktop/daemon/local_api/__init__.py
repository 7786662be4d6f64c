"""The daemon's local API over gRPC: one file a noun. ``base`` has what all calls share."""
