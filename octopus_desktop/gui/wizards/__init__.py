"""Step-by-step windows. Each hands plain requests to the client and ends."""
