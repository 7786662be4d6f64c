"""What the window knows at this moment, and tables over it. Knows no page."""
